/* Sends ready-made HTTP requests over keep-alive connections, each connection's next when its last is answered.
 *
 * load PORT CONNECTIONS SECONDS FIRST LAST FILE
 *
 * FILE holds requests one after another, each after its length (32 bits, this machine's order). Those from FIRST up to,
 * but without, LAST are sent to 127.0.0.1, none of them twice, until they or SECONDS are over. Then it waits for what
 * is on its way and prints what it saw as JSON. Times are in milliseconds, unless a name says otherwise.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_ANSWER 65536
#define PATIENCE_MS 60000 /* without any answer, before all that is on its way is given up */

struct connection {
    int fd;
    const char *rest; /* of the request that is being sent */
    size_t unsent;
    int64_t sent_at; /* nanoseconds; 0 while nothing is on its way */
    size_t received;
    char answer[LONGEST_ANSWER + 1];
};

static int epoll, port;
static const char *next_request;
static long requests_left, lost;
static long answers[600]; /* by status */
static uint32_t *latencies; /* microseconds */
static long answered;
static int64_t last_answer_at, deadline;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(clockid_t clock) {
    struct timespec moment;
    clock_gettime(clock, &moment);
    return moment.tv_sec * 1000000000LL + moment.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void open_connection(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event interest = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    int yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &interest) < 0) die("epoll_ctl");
}

/* The connection ended before its answer came: whether the request took effect can't be told from here. */
static void lose(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    if (c->sent_at) lost++;
    c->sent_at = 0;
}

static void push(struct connection *c) {
    while (c->unsent) {
        ssize_t wrote = write(c->fd, c->rest, c->unsent);
        if (wrote < 0) {
            if (errno != EAGAIN) lose(c);
            return;
        }
        c->rest += wrote;
        c->unsent -= wrote;
    }
}

/* 0 when there is nothing left to send, or no time. */
static int send_next(struct connection *c) {
    uint32_t length;
    int64_t started;
    while (requests_left && (started = now(CLOCK_MONOTONIC)) < deadline) {
        if (c->fd < 0) open_connection(c);
        memcpy(&length, next_request, sizeof length);
        c->rest = next_request + sizeof length;
        c->unsent = length;
        c->received = 0;
        c->sent_at = started;
        next_request += sizeof length + length;
        requests_left--;
        push(c);
        if (c->sent_at) return 1;
    }
    return 0;
}

/* The value of a header, or NULL; both in the answer's head, which ends with a zero. */
static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':') return line + 3 + length;
    return NULL;
}

/* 1 when the answer is whole, and then counts it. */
static int finish(struct connection *c) {
    char *end;
    const char *length, *closing;
    int status;
    c->answer[c->received] = 0;
    if (!(end = strstr(c->answer, "\r\n\r\n"))) return 0;
    end[2] = 0;
    length = header(c->answer, "content-length");
    closing = header(c->answer, "connection");
    status = atoi(c->answer + sizeof "HTTP/1.1");
    if (c->received < (size_t)(end + 4 - c->answer) + (length ? strtoul(length, NULL, 10) : 0)) {
        end[2] = '\r';
        return 0;
    }
    last_answer_at = now(CLOCK_MONOTONIC);
    latencies[answered++] = (last_answer_at - c->sent_at) / 1000;
    answers[status > 0 && status < 600 ? status : 0]++;
    c->sent_at = 0;
    if (closing && !strncasecmp(closing + strspn(closing, " "), "close", 5)) lose(c);
    return 1;
}

static int pull(struct connection *c) {
    while (c->fd >= 0 && c->sent_at) {
        size_t room = LONGEST_ANSWER - c->received;
        ssize_t got = read(c->fd, c->answer + c->received, room);
        if (got < 0 && errno == EAGAIN) return 0;
        if (got <= 0) {
            lose(c);
            return 1;
        }
        c->received += got;
        if (finish(c)) return 1;
        if ((size_t)got < room) return 0; /* that was all: what follows raises a new edge */
    }
    return 0;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double share) {
    return answered ? latencies[(long)((answered - 1) * share)] / 1e3 : 0;
}

int main(int count, char **argument) {
    if (count != 7) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS FIRST LAST FILE\n");
        return 2;
    }
    port = atoi(argument[1]);
    long connections = atol(argument[2]), first = atol(argument[4]), last = atol(argument[5]);
    int file = open(argument[6], O_RDONLY);
    struct stat facts;
    if (file < 0 || fstat(file, &facts) < 0) die(argument[6]);
    next_request = mmap(NULL, facts.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    if (next_request == MAP_FAILED) die("mmap");
    const char *end = next_request + facts.st_size;
    for (long i = 0; i < first && next_request < end; i++) {
        uint32_t length;
        memcpy(&length, next_request, sizeof length);
        next_request += sizeof length + length;
    }
    requests_left = last - first;
    latencies = malloc((last - first + 1) * sizeof *latencies);
    struct connection *all = calloc(connections, sizeof *all);
    struct epoll_event *ready = calloc(connections, sizeof *ready);
    if (!latencies || !all || !ready) die("memory");
    epoll = epoll_create1(0);
    for (long i = 0; i < connections; i++) open_connection(&all[i]);

    double cpu = cpu_seconds();
    double started_at = now(CLOCK_REALTIME) / 1e9;
    int64_t started = last_answer_at = now(CLOCK_MONOTONIC);
    long busy = 0;
    deadline = started + (int64_t)(atof(argument[3]) * 1e9);
    for (long i = 0; i < connections; i++) busy += send_next(&all[i]);
    while (busy) {
        int events = epoll_wait(epoll, ready, connections, PATIENCE_MS);
        if (events == 0) break;
        for (int i = 0; i < events; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c->sent_at) continue;
            push(c);
            if ((!c->sent_at || pull(c)) && !send_next(c)) busy--;
        }
    }
    for (long i = 0; i < connections; i++)
        if (all[i].sent_at) lost++;
    cpu = cpu_seconds() - cpu;

    qsort(latencies, answered, sizeof *latencies, ascending);
    printf("{\"started_at\": %.6f, \"seconds\": %.6f, \"next\": %ld, \"answers\": {", started_at,
           (last_answer_at - started) / 1e9, last - requests_left);
    for (int status = 0, shown = 0; status < 600; status++)
        if (answers[status]) printf("%s\"%d\": %ld", shown++ ? ", " : "", status, answers[status]);
    printf("}, \"lost\": %ld, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"cpu_us\": %.2f}\n", lost,
           percentile(.5), percentile(.9), percentile(.99), percentile(1), answered ? cpu * 1e6 / answered : 0);
    return 0;
}
