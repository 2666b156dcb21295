/* The stream client: keeps N streams open in a closed loop for T seconds, and reports as one line of JSON.
 *
 * usage: streams PORT PATH MODEL STREAMS SECONDS EVENTS GAP_MS        (connects to 127.0.0.1; they begin GAP_MS apart)
 *
 * A stream is good if its status is 200, it brought at least EVENTS events (`data: {`) and its HTTP body ended. TTFT is
 * the time from the begin of a request (with the connect, if one is needed) to its first event.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 8192, READ_BYTES = 65536, CARRY_BYTES = 11, ERRORS = 1000 };
enum framing { BY_CHUNKS, BY_LENGTH, BY_CLOSE };
enum place { IN_HEAD, IN_SIZE, IN_DATA, AFTER_DATA, IN_TRAILER, AT_END };

struct stream {
    int fd;
    double began;
    enum place place;
    enum framing framing;
    bool closes, is_ok;
    size_t head_bytes, left, trailer_bytes, carry_bytes, line_bytes;
    char head[HEAD_BYTES], line[32], carry[CARRY_BYTES];
    long events, ends;
};

struct samples {
    double *at;
    size_t count, room;
};

static struct samples first_ms, total_ms;
static long events_seen, streams_good, streams_unended, errors, expected_events;
static char request[2048];
static size_t request_bytes;
static struct sockaddr_in server;
static int poller;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void keep(struct samples *samples, double value) {
    if (samples->count == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 4096;
        samples->at = realloc(samples->at, samples->room * sizeof *samples->at);
    }
    samples->at[samples->count++] = value;
}

static int by_size(const void *left, const void *right) {
    double l = *(const double *)left, r = *(const double *)right;
    return (l > r) - (l < r);
}

static double percentile(struct samples *samples, double share) {
    if (!samples->count)
        return -1;
    qsort(samples->at, samples->count, sizeof *samples->at, by_size);
    return samples->at[(size_t)(share * (double)(samples->count - 1) + 0.5)];
}

/* ---- one stream -------------------------------------------------------------------------------------------------- */

static void disconnect(struct stream *s) {
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static bool reconnect(struct stream *s) {
    int on = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(s->fd, (struct sockaddr *)&server, sizeof server) < 0) {
        disconnect(s);
        return false;
    }
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &event);
    return true;
}

static void begin(struct stream *s) {
    int fd = s->fd;
    memset(s, 0, sizeof *s);
    s->fd = fd;
    while (errors < ERRORS) {
        s->began = now();
        if (s->fd >= 0 || reconnect(s)) {
            if (write(s->fd, request, request_bytes) == (ssize_t)request_bytes)
                return;
            disconnect(s);
        }
        errors++;
    }
}

static void end(struct stream *s, bool is_whole) {
    if (is_whole && s->is_ok && s->events >= expected_events) {
        streams_good++;
        streams_unended += !s->ends;
        keep(&total_ms, (now() - s->began) * 1000);
    } else {
        errors++;
    }
    if (!is_whole || s->closes)
        disconnect(s);
    begin(s);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static long count(const char *data, size_t bytes, const char *what) {
    long found = 0;
    size_t length = strlen(what);
    for (const char *at; (at = memmem(data, bytes, what, length)); found++) {
        bytes -= (size_t)(at - data) + length;
        data = at + length;
    }
    return found;
}

/* Count in `data`, and across its border to what came before: a gateway may cut anywhere. */
static void look(struct stream *s, const char *data, size_t bytes) {
    static const char event[] = "data: {", done[] = "data: [DONE]";
    char joint[2 * CARRY_BYTES];
    size_t ahead = bytes < CARRY_BYTES ? bytes : CARRY_BYTES, joined = s->carry_bytes + ahead;
    long before = s->events;
    memcpy(joint, s->carry, s->carry_bytes);
    memcpy(joint + s->carry_bytes, data, ahead);
    s->events += count(data, bytes, event) + count(joint, joined, event) - count(data, ahead, event) -
                 count(s->carry, s->carry_bytes, event);
    s->ends += count(data, bytes, done) + count(joint, joined, done);
    if (!before && s->events)
        keep(&first_ms, (now() - s->began) * 1000);
    events_seen += s->events - before;
    const char *from = bytes < CARRY_BYTES ? joint : data;
    size_t whole = bytes < CARRY_BYTES ? joined : bytes;
    s->carry_bytes = whole < CARRY_BYTES ? whole : CARRY_BYTES;
    memmove(s->carry, from + whole - s->carry_bytes, s->carry_bytes);
}

static void read_head(struct stream *s) {
    char *head = s->head, *length = strcasestr(head, "\r\ncontent-length:");
    s->is_ok = strncmp(head, "HTTP/1.", 7) == 0 && strncmp(head + 8, " 200", 4) == 0;
    s->closes = strcasestr(head, "\r\nconnection: close") != NULL;
    s->framing = BY_CLOSE;
    s->place = IN_DATA;
    if (strcasestr(head, "\r\ntransfer-encoding: chunked")) {
        s->framing = BY_CHUNKS;
        s->place = IN_SIZE;
    } else if (length) {
        s->framing = BY_LENGTH;
        s->left = strtoul(length + 17, NULL, 10);
        s->place = s->left ? IN_DATA : AT_END;
    }
}

/* Take bytes of the head up to its end; return how many. */
static size_t take_head(struct stream *s, const char *data, size_t bytes) {
    size_t room = HEAD_BYTES - 1 - s->head_bytes, had = s->head_bytes, part = bytes < room ? bytes : room;
    memcpy(s->head + had, data, part);
    s->head[had + part] = 0;
    char *stop = strstr(s->head, "\r\n\r\n");
    if (!stop) {
        s->head_bytes += part;
        return part ? part : bytes + 1; /* a head that is too long: not HTTP */
    }
    stop[2] = 0;
    read_head(s);
    return (size_t)(stop - s->head) + 4 - had;
}

static size_t take_line(struct stream *s, const char *data, size_t bytes) {
    const char *stop = memchr(data, '\n', bytes);
    size_t part = stop ? (size_t)(stop - data) + 1 : bytes;
    for (size_t i = 0; i < part && s->line_bytes < sizeof s->line - 1; i++)
        s->line[s->line_bytes++] = data[i];
    if (!stop)
        return part;
    s->line[s->line_bytes] = 0;
    if (s->place == IN_SIZE) {
        s->left = strtoul(s->line, NULL, 16);
        s->place = s->left ? IN_DATA : IN_TRAILER;
    } else if (s->place == AFTER_DATA) {
        s->place = IN_SIZE;
    } else if (s->line_bytes <= 2) {
        s->place = AT_END;
    }
    s->line_bytes = 0;
    return part;
}

static size_t take_data(struct stream *s, const char *data, size_t bytes) {
    size_t part = s->framing == BY_CLOSE || bytes < s->left ? bytes : s->left;
    look(s, data, part);
    if (s->framing != BY_CLOSE && !(s->left -= part))
        s->place = s->framing == BY_CHUNKS ? AFTER_DATA : AT_END;
    return part;
}

static void on_readable(struct stream *s) {
    static char buffer[READ_BYTES];
    ssize_t got = read(s->fd, buffer, sizeof buffer);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        s->closes = true;
        end(s, s->place == IN_DATA && s->framing == BY_CLOSE);
        return;
    }
    size_t bytes = (size_t)got, at = 0;
    while (at < bytes && s->place != AT_END) {
        const char *data = buffer + at;
        size_t rest = bytes - at;
        size_t part = s->place == IN_HEAD   ? take_head(s, data, rest)
                      : s->place == IN_DATA ? take_data(s, data, rest)
                                            : take_line(s, data, rest);
        if (part > rest) {
            end(s, false);
            return;
        }
        at += part;
    }
    if (s->place == AT_END)
        end(s, at == bytes);
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static void run(struct stream *streams, int many, double seconds, double gap) {
    double from = now(), until = from + seconds;
    int begun = 0;
    for (double left; (left = until - now()) > 0 && errors < ERRORS;) {
        for (; begun < many && now() >= from + gap * begun; begun++) {
            streams[begun].fd = -1;
            begin(&streams[begun]);
        }
        double next = from + gap * begun - now();
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, (int)((begun < many && next < left ? next : left) * 1000) + 1);
        for (int i = 0; i < ready; i++)
            on_readable(events[i].data.ptr);
    }
}

int main(int count, char **arguments) {
    if (count != 8) {
        fprintf(stderr, "usage: streams PORT PATH MODEL STREAMS SECONDS EVENTS GAP_MS\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    char body[1024];
    int bytes = snprintf(body, sizeof body,
                         "{\"model\":\"%s\",\"stream\":true,\"messages\":[{\"role\":\"system\",\"content\":\"You are a "
                         "helpful assistant.\"},{\"role\":\"user\",\"content\":\"What is the capital of France?\"}]}",
                         arguments[3]);
    request_bytes = (size_t)snprintf(request, sizeof request,
                                     "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%s\r\nauthorization: Bearer sk-1234\r\n"
                                     "content-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
                                     arguments[2], arguments[1], bytes, body);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    expected_events = atol(arguments[6]);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int many = atoi(arguments[4]);
    double began = now();
    run(calloc((size_t)many, sizeof(struct stream)), many, atof(arguments[5]), atof(arguments[7]) / 1000);
    double seconds = now() - began;
    printf("{\"seconds\": %.3f, \"streams\": %ld, \"errors\": %ld, \"without_end_marker\": %ld, "
           "\"streams_per_second\": %.1f, \"chunks_per_second\": %.1f, \"ttft_p50_ms\": %.3f, \"ttft_p99_ms\": %.3f, "
           "\"total_p50_ms\": %.3f}\n",
           seconds, streams_good, errors, streams_unended, (double)streams_good / seconds,
           (double)events_seen / seconds, percentile(&first_ms, 0.5), percentile(&first_ms, 0.99),
           percentile(&total_ms, 0.5));
    return 0;
}
