-- The load for plain requests: a chat body of about 190 bytes. The result is one line of JSON on stdout.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-1234"
wrk.body = '{"model":"mock","messages":[{"role":"system","content":"You are a helpful assistant."},'
  .. '{"role":"user","content":"What is the capital of France? Answer in one word, please, as always."}]}'

function done(summary, latency)
  local wrong = summary.errors
  io.write(string.format(
    'JSON {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, '
      .. '"not_2xx": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    wrong.status, wrong.connect, wrong.read, wrong.write, wrong.timeout))
end
