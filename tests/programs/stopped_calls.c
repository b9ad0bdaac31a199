/* One thread in each system call that waits and that a stop may end with EINTR. No signal has a
 * handler.
 *
 * Prints "call NAME TID NUMBER" for each, NUMBER being that of the system call that it is about to
 * make, then "ready"; for each line of its input "returned NAME ERRNO" for each call that has
 * returned (0: without an error), then "done". At the end of its input it ends. x86-64 only. */
#include "scenario.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

enum { LONG_S = 100000, LONG_MS = LONG_S * 1000, NOT_RETURNED = -1 };

struct call {
    const char *name;
    void (*make)(struct call *);
    pid_t tid;
    long number;
    volatile int result;
};

static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;
static volatile int told;

static void tell(const struct call *call) {
    char line[120] = "call ";
    char *end = line + 5;
    memcpy(end, call->name, strlen(call->name));
    end += strlen(call->name);
    *end++ = ' ';
    end = put_number(end, (unsigned long long)call->tid);
    *end++ = ' ';
    end = put_number(end, (unsigned long long)call->number);
    *end++ = '\n';
    *end = '\0';
    pthread_mutex_lock(&telling);
    say(line);
    told++;
    pthread_mutex_unlock(&telling);
}

/* Makes the call: its thread has told before which one. */
#define CALL(which, ...)                                                                           \
    do {                                                                                           \
        call->number = (which);                                                                    \
        tell(call);                                                                                \
        long result_ = syscall((which), __VA_ARGS__);                                              \
        call->result = result_ < 0 ? errno : 0;                                                    \
    } while (0)

#define NEEDED(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            _exit(80);                                                                             \
    } while (0)

#define WAITS(name) static void name(struct call *call)

static struct timespec for_long = {.tv_sec = LONG_S};
static const sigset_t none;
static char byte;

static struct timespec until(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    now.tv_sec += LONG_S;
    return now;
}

static int empty_pipe(void) {
    int ends[2];
    NEEDED(pipe(ends) == 0);
    return ends[0];
}

static int epoll_of_nothing(void) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    NEEDED(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, empty_pipe(), &event) == 0);
    return epoll;
}

WAITS(make_epoll_wait) {
    struct epoll_event event;
    CALL(SYS_epoll_wait, epoll_of_nothing(), &event, 1, -1);
}

WAITS(make_epoll_wait_timeout) {
    struct epoll_event event;
    CALL(SYS_epoll_wait, epoll_of_nothing(), &event, 1, LONG_MS);
}

WAITS(make_epoll_pwait) {
    struct epoll_event event;
    CALL(SYS_epoll_pwait, epoll_of_nothing(), &event, 1, -1, &none, 8);
}

WAITS(make_epoll_pwait2) {
    struct epoll_event event;
    CALL(SYS_epoll_pwait2, epoll_of_nothing(), &event, 1, &for_long, &none, 8);
}

WAITS(make_poll) {
    struct pollfd one = {.fd = empty_pipe(), .events = POLLIN};
    CALL(SYS_poll, &one, 1, -1);
}

WAITS(make_poll_timeout) {
    struct pollfd one = {.fd = empty_pipe(), .events = POLLIN};
    CALL(SYS_poll, &one, 1, LONG_MS);
}

WAITS(make_ppoll) {
    struct pollfd one = {.fd = empty_pipe(), .events = POLLIN};
    struct timespec time = for_long;
    CALL(SYS_ppoll, &one, 1, &time, &none, 8);
}

WAITS(make_select) {
    fd_set set;
    int end = empty_pipe();
    struct timeval time = {.tv_sec = LONG_S};
    FD_ZERO(&set);
    FD_SET(end, &set);
    CALL(SYS_select, end + 1, &set, NULL, NULL, &time);
}

WAITS(make_pselect) {
    fd_set set;
    int end = empty_pipe();
    FD_ZERO(&set);
    FD_SET(end, &set);
    CALL(SYS_pselect6, end + 1, &set, NULL, NULL, NULL, NULL);
}

WAITS(make_nanosleep) {
    struct timespec left;
    CALL(SYS_nanosleep, &for_long, &left);
}

WAITS(make_clock_nanosleep) {
    struct timespec time = until(CLOCK_MONOTONIC);
    CALL(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

WAITS(make_futex) {
    static int word;
    CALL(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

WAITS(make_futex_timeout) {
    static int word;
    CALL(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &for_long, NULL, 0);
}

/* As sem_timedwait, pthread_cond_timedwait and pthread_join do. */
WAITS(make_futex_until) {
    static int word;
    struct timespec time = until(CLOCK_REALTIME);
    CALL(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &time, NULL,
         FUTEX_BITSET_MATCH_ANY);
}

WAITS(make_futex_pi) {
    static int word;
    word = getpid(); /* the first thread owns it */
    CALL(SYS_futex, &word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
}

WAITS(make_futex_waitv) {
    static uint32_t word;
    struct {
        uint64_t value, address;
        uint32_t flags, reserved;
    } one = {.address = (uintptr_t)&word, .flags = 2 | FUTEX_PRIVATE_FLAG}; /* of 32 bits */
    struct timespec time = until(CLOCK_MONOTONIC);
    CALL(449, &one, 1, 0, &time, CLOCK_MONOTONIC);
}

WAITS(make_read_pipe) {
    CALL(SYS_read, empty_pipe(), &byte, 1);
}

WAITS(make_write_pipe) {
    static char much[1 << 20];
    int ends[2];
    NEEDED(pipe2(ends, O_NONBLOCK) == 0);
    while (write(ends[1], much, sizeof much) > 0)
        ;
    NEEDED(fcntl(ends[1], F_SETFL, 0) == 0);
    CALL(SYS_write, ends[1], &byte, 1);
}

WAITS(make_splice) {
    int ends[2];
    NEEDED(pipe(ends) == 0);
    CALL(SYS_splice, empty_pipe(), NULL, ends[1], NULL, 1, 0);
}

WAITS(make_read_eventfd) {
    uint64_t value;
    CALL(SYS_read, eventfd(0, 0), &value, sizeof value);
}

WAITS(make_read_timerfd) {
    uint64_t value;
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec time = {.it_value = for_long};
    NEEDED(timerfd_settime(timer, 0, &time, NULL) == 0);
    CALL(SYS_read, timer, &value, sizeof value);
}

WAITS(make_read_signalfd) {
    struct signalfd_siginfo info;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CALL(SYS_read, signalfd(-1, &set, 0), &info, sizeof info);
}

WAITS(make_read_inotify) {
    char events[4096];
    int watch = inotify_init1(0);
    NEEDED(inotify_add_watch(watch, "/proc/self/fdinfo", IN_CREATE) >= 0);
    CALL(SYS_read, watch, events, sizeof events);
}

WAITS(make_read_terminal) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    NEEDED(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    CALL(SYS_read, open(ptsname(terminal), O_RDWR | O_NOCTTY), &byte, 1);
}

WAITS(make_open_fifo) {
    char path[] = "/tmp/stopped_calls_XXXXXX";
    NEEDED(mkdtemp(path) != NULL && chdir(path) == 0 && mkfifo("fifo", 0600) == 0);
    int directory = open(".", O_PATH);
    char fifo[64] = "/proc/self/fd/";
    char *end = put_number(fifo + 14, (unsigned long long)directory);
    memcpy(end, "/fifo", 6);
    int same = open(fifo, O_PATH); /* it can be removed: this one leads to it */
    NEEDED(same >= 0 && unlink("fifo") == 0 && chdir("/") == 0 && rmdir(path) == 0);
    end = put_number(fifo + 14, (unsigned long long)same);
    *end = '\0';
    CALL(SYS_openat, AT_FDCWD, fifo, O_RDONLY);
}

static void time_out(int socket, int option) {
    struct timeval time = {.tv_sec = LONG_S};
    NEEDED(setsockopt(socket, SOL_SOCKET, option, &time, sizeof time) == 0);
}

static int stream(int fill) {
    int ends[2];
    NEEDED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    while (fill && send(ends[0], &for_long, sizeof for_long, MSG_DONTWAIT) > 0)
        ;
    return ends[0];
}

WAITS(make_recv) {
    CALL(SYS_recvfrom, stream(0), &byte, 1, 0, NULL, NULL);
}

static int udp(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int end = socket(AF_INET, SOCK_DGRAM, 0);
    NEEDED(bind(end, (struct sockaddr *)&address, sizeof address) == 0);
    return end;
}

WAITS(make_recv_udp) {
    CALL(SYS_recvfrom, udp(), &byte, 1, 0, NULL, NULL);
}

WAITS(make_recv_udp_timeout) {
    int end = udp();
    time_out(end, SO_RCVTIMEO);
    CALL(SYS_recvfrom, end, &byte, 1, 0, NULL, NULL);
}

WAITS(make_recvmmsg) {
    struct iovec room = {&byte, 1};
    struct mmsghdr one = {.msg_hdr = {.msg_iov = &room, .msg_iovlen = 1}};
    struct timespec time = for_long;
    CALL(SYS_recvmmsg, udp(), &one, 1, 0, &time);
}

WAITS(make_accept_tcp) {
    int end = socket(AF_INET, SOCK_STREAM, 0);
    NEEDED(listen(end, 1) == 0);
    CALL(SYS_accept4, end, NULL, NULL, 0);
}

WAITS(make_accept_tcp_timeout) {
    int end = socket(AF_INET, SOCK_STREAM, 0);
    time_out(end, SO_RCVTIMEO);
    NEEDED(listen(end, 1) == 0);
    CALL(SYS_accept4, end, NULL, NULL, 0);
}

WAITS(make_recv_timeout) {
    int end = stream(0);
    time_out(end, SO_RCVTIMEO);
    CALL(SYS_recvfrom, end, &byte, 1, 0, NULL, NULL);
}

WAITS(make_read_timeout) {
    int end = stream(0);
    time_out(end, SO_RCVTIMEO);
    CALL(SYS_read, end, &byte, 1);
}

WAITS(make_send) {
    CALL(SYS_sendto, stream(1), &byte, 1, 0, NULL, 0);
}

WAITS(make_send_timeout) {
    int end = stream(1);
    time_out(end, SO_SNDTIMEO);
    CALL(SYS_sendto, end, &byte, 1, 0, NULL, 0);
}

/* A socket in the abstract namespace, where nobody waits to connect. */
static int listening(struct sockaddr_un *address, socklen_t *length) {
    int end = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    *length = sizeof address->sun_family; /* the kernel chooses a name */
    NEEDED(bind(end, (struct sockaddr *)address, *length) == 0 && listen(end, 0) == 0);
    *length = sizeof *address;
    NEEDED(getsockname(end, (struct sockaddr *)address, length) == 0);
    return end;
}

WAITS(make_accept) {
    struct sockaddr_un address;
    socklen_t length;
    CALL(SYS_accept4, listening(&address, &length), NULL, NULL, 0);
}

WAITS(make_accept_timeout) {
    struct sockaddr_un address;
    socklen_t length;
    int end = listening(&address, &length);
    time_out(end, SO_RCVTIMEO);
    CALL(SYS_accept4, end, NULL, NULL, 0);
}

/* The queue is full: one that nobody accepts is there. */
static int connecting(struct sockaddr_un *address, socklen_t *length) {
    (void)listening(address, length);
    int first = socket(AF_UNIX, SOCK_STREAM, 0);
    NEEDED(connect(first, (struct sockaddr *)address, *length) == 0);
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

WAITS(make_connect) {
    struct sockaddr_un address;
    socklen_t length;
    int end = connecting(&address, &length);
    CALL(SYS_connect, end, &address, length);
}

WAITS(make_connect_timeout) {
    struct sockaddr_un address;
    socklen_t length;
    int end = connecting(&address, &length);
    time_out(end, SO_SNDTIMEO);
    CALL(SYS_connect, end, &address, length);
}

static int semaphores(void) {
    int set = semget(IPC_PRIVATE, 1, 0600);
    NEEDED(set >= 0);
    return set;
}

static int removed_at_end[4], to_remove; /* sets of semaphores, then queues of messages */

WAITS(make_semop) {
    struct sembuf down = {.sem_op = -1};
    CALL(SYS_semop, removed_at_end[0], &down, 1);
}

WAITS(make_semtimedop) {
    struct sembuf down = {.sem_op = -1};
    CALL(SYS_semtimedop, removed_at_end[1], &down, 1, &for_long);
}

struct message {
    long type;
    char text[4096];
};

WAITS(make_msgrcv) {
    struct message room;
    CALL(SYS_msgrcv, removed_at_end[2], &room, sizeof room.text, 0, 0);
}

WAITS(make_msgsnd) {
    static struct message one = {.type = 1};
    while (msgsnd(removed_at_end[3], &one, sizeof one.text, IPC_NOWAIT) == 0)
        ;
    CALL(SYS_msgsnd, removed_at_end[3], &one, sizeof one.text, 0);
}

WAITS(make_sigwaitinfo) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CALL(SYS_rt_sigtimedwait, &set, NULL, NULL, 8);
}

WAITS(make_sigtimedwait) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CALL(SYS_rt_sigtimedwait, &set, NULL, &for_long, 8);
}

WAITS(make_sigsuspend) {
    CALL(SYS_rt_sigsuspend, &none, 8);
}

WAITS(make_pause) {
    CALL(SYS_pause, 0);
}

static pid_t child; /* it lives as long as this process */

WAITS(make_wait4) {
    CALL(SYS_wait4, child, NULL, 0, NULL);
}

WAITS(make_waitid) {
    CALL(SYS_waitid, P_PID, child, NULL, WEXITED, NULL);
}

/* Two descriptions of the same file: the first has locked it. */
static int locked(int whole) {
    char path[] = "/proc/self/fd/\0\0\0\0\0\0\0\0";
    int first = (int)syscall(SYS_memfd_create, "locked", 0);
    *put_number(path + 14, (unsigned long long)first) = '\0';
    int second = open(path, O_RDWR);
    struct flock all = {.l_type = F_WRLCK};
    NEEDED(first >= 0 && second >= 0);
    NEEDED((whole ? flock(first, LOCK_EX) : fcntl(first, F_OFD_SETLK, &all)) == 0);
    return second;
}

WAITS(make_flock) {
    CALL(SYS_flock, locked(1), LOCK_EX);
}

WAITS(make_fcntl_lock) {
    struct flock all = {.l_type = F_WRLCK};
    CALL(SYS_fcntl, locked(0), F_OFD_SETLKW, &all);
}

WAITS(make_io_getevents) {
    aio_context_t context = 0;
    struct io_event event;
    NEEDED(syscall(SYS_io_setup, 1, &context) == 0);
    CALL(SYS_io_getevents, context, 1, 1, &event, NULL);
}

WAITS(make_io_pgetevents) {
    aio_context_t context = 0;
    struct io_event event;
    NEEDED(syscall(SYS_io_setup, 1, &context) == 0);
    CALL(SYS_io_pgetevents, context, 1, 1, &event, NULL, NULL);
}

static mqd_t messages(int fill) {
    char name[32] = "/stopped_calls_";
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
    *put_number(name + 15, (unsigned long long)syscall(SYS_gettid)) = '\0';
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    NEEDED(queue >= 0 && mq_unlink(name) == 0);
    NEEDED(!fill || mq_send(queue, "x", 1, 0) == 0);
    return queue;
}

WAITS(make_mq_receive) {
    char room[8];
    CALL(SYS_mq_timedreceive, messages(0), room, sizeof room, NULL, NULL);
}

WAITS(make_mq_timedreceive) {
    char room[8];
    struct timespec time = until(CLOCK_REALTIME);
    CALL(SYS_mq_timedreceive, messages(0), room, sizeof room, NULL, &time);
}

WAITS(make_mq_send) {
    CALL(SYS_mq_timedsend, messages(1), &byte, 1, 0, NULL);
}

WAITS(make_io_uring_enter) {
    struct io_uring_params parameters = {0};
    long ring = syscall(SYS_io_uring_setup, 1, &parameters);
    int refused = ring < 0 ? errno : 0; /* not permitted here */
    if (refused == 0) {
        CALL(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    } else {
        call->result = refused;
        tell(call);
    }
}

#define ROW(name)                                                                                  \
    { #name, make_##name, 0, 0, NOT_RETURNED }

static struct call calls[] = {
    ROW(epoll_wait),
    ROW(epoll_wait_timeout),
    ROW(epoll_pwait),
    ROW(epoll_pwait2),
    ROW(poll),
    ROW(poll_timeout),
    ROW(ppoll),
    ROW(select),
    ROW(pselect),
    ROW(nanosleep),
    ROW(clock_nanosleep),
    ROW(futex),
    ROW(futex_timeout),
    ROW(futex_until),
    ROW(futex_pi),
    ROW(futex_waitv),
    ROW(read_pipe),
    ROW(write_pipe),
    ROW(splice),
    ROW(read_eventfd),
    ROW(read_timerfd),
    ROW(read_signalfd),
    ROW(read_inotify),
    ROW(read_terminal),
    ROW(open_fifo),
    ROW(recv),
    ROW(recv_timeout),
    ROW(recv_udp),
    ROW(recv_udp_timeout),
    ROW(recvmmsg),
    ROW(read_timeout),
    ROW(send),
    ROW(send_timeout),
    ROW(accept),
    ROW(accept_timeout),
    ROW(accept_tcp),
    ROW(accept_tcp_timeout),
    ROW(connect),
    ROW(connect_timeout),
    ROW(semop),
    ROW(semtimedop),
    ROW(msgrcv),
    ROW(msgsnd),
    ROW(mq_receive),
    ROW(mq_timedreceive),
    ROW(mq_send),
    ROW(sigwaitinfo),
    ROW(sigtimedwait),
    ROW(sigsuspend),
    ROW(pause),
    ROW(wait4),
    ROW(waitid),
    ROW(flock),
    ROW(fcntl_lock),
    ROW(io_getevents),
    ROW(io_pgetevents),
    ROW(io_uring_enter),
};
enum { CALLS = sizeof calls / sizeof *calls };

static void *wait_in_call(void *argument) {
    struct call *call = argument;
    call->tid = (pid_t)syscall(SYS_gettid);
    call->make(call);
    for (;;)
        pause();
    return NULL;
}

static void remove_all(void) {
    for (int i = 0; i < to_remove; i++) {
        if (i < 2)
            semctl(removed_at_end[i], 0, IPC_RMID);
        else
            msgctl(removed_at_end[i], IPC_RMID, NULL);
    }
}

int main(void) {
    char line[64];
    int alive[2];

    NEEDED(pipe(alive) == 0);
    child = fork();
    if (child == 0) {
        close(alive[1]);
        _exit((int)read(alive[0], &byte, 1)); /* until the parent ends */
    }
    removed_at_end[0] = semaphores();
    removed_at_end[1] = semaphores();
    removed_at_end[2] = msgget(IPC_PRIVATE, 0600);
    removed_at_end[3] = msgget(IPC_PRIVATE, 0600);
    to_remove = 4;
    for (int i = 0; i < CALLS; i++) {
        pthread_t thread;
        NEEDED(pthread_create(&thread, NULL, wait_in_call, &calls[i]) == 0);
    }
    while (told < CALLS)
        usleep(1000);
    say("ready\n");
    while (read_line(line, sizeof line)) {
        for (int i = 0; i < CALLS; i++) {
            if (calls[i].result == NOT_RETURNED)
                continue;
            char text[80] = "returned ";
            char *end = text + 9;
            memcpy(end, calls[i].name, strlen(calls[i].name));
            end += strlen(calls[i].name);
            *end++ = ' ';
            end = put_number(end, (unsigned long long)calls[i].result);
            memcpy(end, "\n", 2);
            say(text);
        }
        say("done\n");
    }
    remove_all();
    return 0;
}
