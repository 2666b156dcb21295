/* The mock upstream: answers like an OpenAI server, from memory, on one thread, faster than any gateway passes it on.
 *
 * usage: upstream PORT          (0: any free one; prints "ready PORT" once it listens, on 127.0.0.1)
 *
 * GET, anything                 a list with the models `mock` and `paced`
 * POST                          a chat completion of 580 bytes
 * POST, "stream": true          200 SSE events of 185 bytes, an event with the usage and the end marker, in one write
 * ... and a model with `paced`  20 of the events, the first at once, each further one 40 ms later; then usage and end
 *
 * Every SSE event is an HTTP chunk of its own, as real engines send them. The event loop is level-triggered epoll; the
 * next request of a connection is looked at when its last answer is written.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_BYTES = 32768, CONNECTIONS = 16384, COMPLETION_BYTES = 580, EVENT_BYTES = 185 };
enum { FAST_EVENTS = 200, PACED_EVENTS = 20, PACE_MS = 40, OUT_BYTES = 65536 };

struct connection {
    int fd;
    int paced_left;      /* events of a paced stream that are still to be sent */
    uint64_t generation; /* tells this connection from a later one on the same descriptor */
    size_t in_bytes, out_bytes;
    const char *out;
    char in[REQUEST_BYTES];
};

struct text {
    size_t bytes;
    char data[OUT_BYTES];
};

struct pace { /* one entry of the queue of paced streams; all wait equally long, so the queue is in order of time */
    int fd;
    uint64_t generation, due_ns;
};

static struct text models, completion, fast, paced_first, paced_next, paced_last;
static const char refusal[] = "HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n";
static struct connection *connections[CONNECTIONS];
static struct pace queue[CONNECTIONS * 2];
static size_t queue_head, queue_tail;
static uint64_t generations;
static int poller, timer;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- what is sent ------------------------------------------------------------------------------------------------ */

static void append(struct text *to, const char *data, size_t bytes) {
    if (to->bytes + bytes > OUT_BYTES)
        die("answer too large");
    memcpy(to->data + to->bytes, data, bytes);
    to->bytes += bytes;
}

static void append_chunk(struct text *to, const char *data, size_t bytes) {
    char size[20];
    append(to, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", bytes));
    append(to, data, bytes);
    append(to, "\r\n", 2);
}

/* Write a JSON text whose `%s` is replaced by as many letters as make the whole `bytes` long. They begin with a number:
 * LiteLLM takes 100 equal events for a model that has lost its mind. */
static void pad(char *to, const char *format, size_t bytes, int number) {
    char letters[1024];
    size_t fill = bytes - (strlen(format) - 2);
    memset(letters, 'a', fill);
    letters[snprintf(letters, sizeof letters, "%d", number)] = ' ';
    letters[fill] = 0;
    sprintf(to, format, letters);
}

static void make_json(struct text *to, const char *body) {
    char head[200];
    int bytes = snprintf(head, sizeof head,
                         "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", strlen(body));
    append(to, head, (size_t)bytes);
    append(to, body, strlen(body));
}

static void make_answers(void) {
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
                               "transfer-encoding: chunked\r\n\r\n";
    static const char usage[] =
        "data: {\"id\":\"chatcmpl-0\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock\","
        "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":200,\"total_tokens\":224}}\n\n";
    static const char format[] =
        "data: {\"id\":\"chatcmpl-0\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock\","
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"finish_reason\":null}]}\n\n";
    static const char done[] = "data: [DONE]\n\n";
    char body[COMPLETION_BYTES + 1], event[EVENT_BYTES + 1];
    pad(body,
        "{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock\",\"choices\":[{"
        "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":60,\"total_tokens\":84}}",
        COMPLETION_BYTES, 0);
    make_json(&completion, body);
    make_json(&models, "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"owned_by\":\"bench\"},"
                       "{\"id\":\"paced\",\"object\":\"model\",\"owned_by\":\"bench\"}]}");
    append(&fast, head, strlen(head));
    for (int i = 0; i < FAST_EVENTS; i++) {
        pad(event, format, EVENT_BYTES, i);
        append_chunk(&fast, event, EVENT_BYTES);
    }
    append(&paced_first, head, strlen(head));
    append_chunk(&paced_first, event, EVENT_BYTES);
    append_chunk(&paced_next, event, EVENT_BYTES);
    append_chunk(&paced_last, event, EVENT_BYTES);
    for (struct text **to = (struct text *[]){&fast, &paced_last, NULL}; *to; to++) {
        append_chunk(*to, usage, strlen(usage));
        append_chunk(*to, done, strlen(done));
        append(*to, "0\r\n\r\n", 5);
    }
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

static void drop(struct connection *c) {
    connections[c->fd] = NULL;
    close(c->fd); /* takes it out of epoll too */
    free(c);
}

static void want(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = c->fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

/* Write what is to be written; false once the connection is gone. */
static bool flush(struct connection *c, bool was_waiting) {
    while (c->out_bytes) {
        ssize_t written = write(c->fd, c->out, c->out_bytes);
        if (written < 0 && errno == EAGAIN) {
            if (!was_waiting)
                want(c, EPOLLIN | EPOLLOUT);
            return true;
        }
        if (written < 0) {
            drop(c);
            return false;
        }
        c->out += written;
        c->out_bytes -= (size_t)written;
    }
    if (was_waiting)
        want(c, EPOLLIN);
    return true;
}

static void arm(void) {
    if (queue_head == queue_tail)
        return;
    uint64_t due = queue[queue_head % (CONNECTIONS * 2)].due_ns;
    struct itimerspec at = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void wait_pace(struct connection *c, uint64_t from_ns) {
    bool was_empty = queue_head == queue_tail;
    queue[queue_tail++ % (CONNECTIONS * 2)] = (struct pace){c->fd, c->generation, from_ns + PACE_MS * 1000000u};
    if (was_empty)
        arm();
}

/* Find the value of the body's top "model" well enough for bodies that benchmarks send. */
static bool is_paced(const char *body, size_t bytes) {
    const char *model = memmem(body, bytes, "\"model\"", 7);
    if (!model)
        return false;
    const char *value = memchr(model + 7, '"', (size_t)(body + bytes - model) - 7);
    const char *end = value ? memchr(value + 1, '"', (size_t)(body + bytes - value) - 1) : NULL;
    return end && memmem(value, (size_t)(end - value), "paced", 5);
}

static bool is_stream(const char *body, size_t bytes) {
    return memmem(body, bytes, "\"stream\":true", 13) || memmem(body, bytes, "\"stream\": true", 14);
}

static void answer(struct connection *c, const char *body, size_t bytes, bool is_get) {
    const struct text *text = &completion;
    if (is_get) {
        text = &models;
    } else if (is_stream(body, bytes)) {
        text = &fast;
        if (is_paced(body, bytes)) {
            text = &paced_first;
            c->paced_left = PACED_EVENTS - 1;
            wait_pace(c, now_ns());
        }
    }
    c->out = text->data;
    c->out_bytes = text->bytes;
}

static size_t content_length(const char *head, size_t bytes) {
    for (const char *line = head; (line = memchr(line, '\n', (size_t)(head + bytes - line)));) {
        line++;
        if ((size_t)(head + bytes - line) > 15 && strncasecmp(line, "content-length:", 15) == 0)
            return strtoul(line + 15, NULL, 10);
    }
    return SIZE_MAX;
}

/* Answer the requests that are complete, one after the other. */
static void serve(struct connection *c) {
    while (!c->out_bytes && !c->paced_left) {
        const char *end = memmem(c->in, c->in_bytes, "\r\n\r\n", 4);
        if (!end)
            return;
        size_t head = (size_t)(end - c->in) + 4;
        bool is_get = memcmp(c->in, "GET ", 4) == 0;
        size_t body = is_get ? 0 : content_length(c->in, head);
        if (body == SIZE_MAX) { /* a chunked body: nobody sends one here */
            c->out = refusal;
            c->out_bytes = sizeof refusal - 1;
            body = c->in_bytes - head;
        } else if (head + body > sizeof c->in) {
            drop(c);
            return;
        } else if (c->in_bytes < head + body) {
            return;
        } else {
            answer(c, c->in + head, body, is_get);
        }
        c->in_bytes -= head + body;
        memmove(c->in, c->in + head + body, c->in_bytes);
        if (!flush(c, false))
            return;
    }
}

static void on_event(struct connection *c, uint32_t events) {
    if (events & EPOLLOUT) {
        if (!flush(c, true))
            return;
        if (!c->out_bytes)
            serve(c);
        return; /* level-triggered: what there is to read is told again */
    }
    size_t room = sizeof c->in - c->in_bytes;
    ssize_t got = room ? read(c->fd, c->in + c->in_bytes, room) : 0;
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        drop(c);
        return;
    }
    c->in_bytes += (size_t)got;
    serve(c);
}

static void on_timer(void) {
    uint64_t expirations, now = now_ns();
    if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
        die("timer");
    while (queue_head != queue_tail && queue[queue_head % (CONNECTIONS * 2)].due_ns <= now) {
        struct pace pace = queue[queue_head++ % (CONNECTIONS * 2)];
        struct connection *c = connections[pace.fd];
        if (!c || c->generation != pace.generation)
            continue;
        if (c->out_bytes) { /* the reader is behind: try again in 40 ms, rather than keep a queue */
            wait_pace(c, now);
            continue;
        }
        const struct text *text = --c->paced_left ? &paced_next : &paced_last;
        c->out = text->data;
        c->out_bytes = text->bytes;
        if (c->paced_left)
            wait_pace(c, pace.due_ns);
        if (flush(c, false) && !c->paced_left)
            serve(c);
    }
    arm();
}

static void on_accept(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = fd < CONNECTIONS ? calloc(1, sizeof *c) : NULL;
        if (!c) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        c->fd = fd;
        c->generation = ++generations;
        connections[fd] = c;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t bytes = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, bytes) < 0 || listen(fd, 4096) < 0)
        die("listen");
    getsockname(fd, (struct sockaddr *)&address, &bytes);
    printf("ready %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* nothing survives the benchmark */
    signal(SIGPIPE, SIG_IGN);
    make_answers();
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int listener = listen_on(count > 1 ? atoi(arguments[1]) : 0);
    for (int *fd = (int[]){listener, timer, 0}; *fd; fd++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = *fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, *fd, &event);
    }
    for (;;) {
        struct epoll_event events[512];
        int many = epoll_wait(poller, events, 512, -1);
        if (many < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < many; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                on_accept(listener);
            else if (fd == timer)
                on_timer();
            else if (connections[fd])
                on_event(connections[fd], events[i].events);
        }
    }
}
