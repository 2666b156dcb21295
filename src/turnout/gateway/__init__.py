"""Gateway: the HTTP face of turnout, from the listening socket to the answer's last byte.

Serves the OpenAI, Ollama and Anthropic dialects and turnout's own routes; limits, keys and error bodies live here.
Reads: core, config, tiers, routing, dispatch.  Start with routes.py; server.py and connection.py are the HTTP server.
"""
