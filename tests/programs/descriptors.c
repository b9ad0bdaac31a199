/* Opens file descriptors, closes some of them, and takes commands, one per line. Each answers "done
 * LEFT OPEN": how many the command has left open by its own count, and how many the process has
 * open by /proc/self/fd.
 *
 *   files N       opens N files in one function
 *   sockets N     a socket that listens, N connections to it, and N that it accepts
 *   pipes N       N pipes
 *   copies N      dup, dup3 and fcntl of one of the files that it has opened, N times each
 *   closed N      opens N files and closes them in each way that there is
 *   replaced N    dup2 over N open files: no more are open than before
 *   failures      calls that fail, or that open nothing
 *   kinds         one or two descriptors of each of many kinds
 *   received N    N descriptors in a message to itself
 *   many N        received in messages that are read by recvmmsg
 *   threads N     each of four threads opens 2 N files, and closes N of another thread
 *   storm N       four threads open and close N files each, and leave some open
 *   child N       a child opens N files; answers when they are open
 *   limit N       lets the process have N descriptors
 *   exec          opens three files, two of them for itself only, and executes itself
 *
 * With arguments, it runs these commands ("files 3" "closed 4") and ends, without the protocol.
 */
#include "scenario.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>

#define FILE_PATH "/etc/passwd"

static unsigned long long left_open;

static int check(long result) {
    if (result < 0) {
        say("failed\n");
        _exit(72);
    }
    KEEP(result);
    return (int)result;
}

static int left(long descriptor) {
    left_open++;
    return check(descriptor);
}

SCENARIO open_files(size_t count) {
    for (size_t i = 0; i < count; i++)
        left(open(FILE_PATH, O_RDONLY));
}

static int listen_at(struct sockaddr_un *address) {
    int listener = left(socket(AF_UNIX, SOCK_STREAM, 0));
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    check(snprintf(address->sun_path + 1, 40, "leaktrace-test-%d-%d", (int)getpid(), listener));
    check(bind(listener, (struct sockaddr *)address, sizeof *address));
    check(listen(listener, 100));
    return listener;
}

SCENARIO connect_to(const struct sockaddr_un *address) {
    int client = left(socket(AF_UNIX, SOCK_STREAM, 0));
    check(connect(client, (const struct sockaddr *)address, sizeof *address));
}

SCENARIO accept_from(int listener) {
    left(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
}

SCENARIO open_sockets(size_t count) {
    struct sockaddr_un address;
    int listener = listen_at(&address);
    for (size_t i = 0; i < count; i++) {
        connect_to(&address);
        accept_from(listener);
    }
}

SCENARIO open_pipes(size_t count) {
    for (size_t i = 0; i < count; i++) {
        int ends[2];
        check(i % 2 ? pipe(ends) : pipe2(ends, O_CLOEXEC));
        left_open += 2;
    }
}

SCENARIO open_copies(size_t count) {
    int original = left(open(FILE_PATH, O_RDONLY));
    for (size_t i = 0; i < count; i++) {
        left(dup(original));
        left(dup3(original, 500 + (int)i, O_CLOEXEC));
        left(fcntl(original, F_DUPFD_CLOEXEC, 10));
    }
}

SCENARIO open_and_close(size_t count) {
    for (size_t i = 0; i < count; i++) {
        check(close(check(open(FILE_PATH, O_RDONLY))));
        check(close(check(socket(AF_INET, SOCK_DGRAM, 0))));
        int first = check(open(FILE_PATH, O_RDONLY));
        int second = check(fcntl(first, F_DUPFD, 600));
        check(close(first));
        check(fcntl(second, F_DUPFD, second + 1)); /* 601 */
        check(syscall(SYS_close_range, second, second + 1, 0));
    }
    for (size_t i = 0; i < count; i++)
        check(dup2(0, 700 + (int)i));
    check(syscall(SYS_close_range, 700, ~0U, 0));
}

SCENARIO replace(size_t count) {
    for (size_t i = 0; i < count; i++) {
        int opened = left(open(FILE_PATH, O_RDONLY));
        check(dup2(0, opened));
        check(dup2(opened, opened)); /* does nothing */
    }
}

static void fail(long result) {
    if (result >= 0)
        _exit(73);
}

SCENARIO fail_to_open(void) {
    fail(open("/no/such/file", O_RDONLY));
    fail(socket(-1, -1, -1));
    fail(dup(12345));
    fail(dup2(12345, 0));
    fail(fcntl(12345, F_DUPFD, 0));
    fail(accept(0, NULL, NULL));
    fail(syscall(SYS_pipe2, 8, 0));
    fail(syscall(SYS_pipe2, NULL, O_RDONLY | 1));
    fail(close(12345));
    check(fcntl(0, F_GETFD));
    sigset_t none;
    sigemptyset(&none);
    int opened = left(signalfd(-1, &none, 0));
    check(signalfd(opened, &none, 0)); /* changes it */
    check(syscall(SYS_close_range, opened, opened, 4 /* CLOSE_RANGE_CLOEXEC */));
}

SCENARIO open_kinds(void) {
    sigset_t none;
    int ends[2];
    sigemptyset(&none);
    left(epoll_create1(0));
    left(eventfd(0, 0));
    left(timerfd_create(CLOCK_MONOTONIC, 0));
    left(signalfd(-1, &none, 0));
    left(inotify_init1(0));
    left(memfd_create("test", 0));
    left(syscall(SYS_pidfd_open, getpid(), 0));
    left(openat(AT_FDCWD, "/etc", O_RDONLY | O_DIRECTORY));
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    left_open += 2;
    left(dup(0)); /* from before the trace: /proc knows what it is */
}

/* Two sockets that are connected, made before the trace begins. */
static int sockets[2];

static void send_descriptors(size_t count) {
    char data = 'x', control[CMSG_SPACE(sizeof(int) * 32)] = {0};
    struct iovec part = {&data, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memset(CMSG_DATA(header), 0, sizeof(int) * count); /* descriptor 0 */
    check(sendmsg(sockets[0], &message, 0));
}

SCENARIO receive(size_t count) {
    char data, control[CMSG_SPACE(sizeof(int) * 32)];
    struct iovec part = {&data, 1};
    send_descriptors(count);
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    check(recvmsg(sockets[1], &message, 0));
    left_open += count;
}

SCENARIO receive_many(size_t count) {
    char data, control[CMSG_SPACE(sizeof(int) * 32)];
    struct iovec part = {&data, 1};
    send_descriptors(count);
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part,
                                          .msg_iovlen = 1,
                                          .msg_control = control,
                                          .msg_controllen = sizeof control}};
    check(recvmmsg(sockets[1], &message, 1, 0, NULL));
    left_open += count;
}

enum { THREADS = 4, MOST_OF_THREAD = 400 };
static pthread_barrier_t barrier;
static int of_thread[THREADS][MOST_OF_THREAD];
static size_t files_of_thread;

static void *open_in_thread(void *argument) {
    size_t own = (size_t)argument, other = (own + 1) % THREADS;
    for (size_t i = 0; i < 2 * files_of_thread; i++)
        of_thread[own][i] = check(open(FILE_PATH, O_RDONLY));
    pthread_barrier_wait(&barrier);
    for (size_t i = 0; i < files_of_thread; i++)
        check(close(of_thread[other][2 * i]));
    return NULL;
}

SCENARIO open_in_threads(size_t count) {
    pthread_t threads[THREADS];
    files_of_thread = count;
    check(-pthread_barrier_init(&barrier, NULL, THREADS));
    for (size_t i = 0; i < THREADS; i++)
        check(-pthread_create(&threads[i], NULL, open_in_thread, (void *)i));
    for (size_t i = 0; i < THREADS; i++)
        check(-pthread_join(threads[i], NULL));
    left_open += THREADS * count;
}

static void *storm_in_thread(void *argument) {
    int kept[2] = {check(open(FILE_PATH, O_RDONLY)), check(open(FILE_PATH, O_RDONLY))};
    for (size_t i = 0; i < (size_t)argument; i++) {
        check(close(kept[i % 2]));
        kept[i % 2] = check(open(FILE_PATH, O_RDONLY));
        check(close(check(dup2(0, kept[i % 2]))));
        kept[i % 2] = check(open(FILE_PATH, O_RDONLY));
    }
    return NULL;
}

/* The kernel gives a number that one thread closes to another one at once. */
SCENARIO storm(size_t count) {
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        check(-pthread_create(&threads[i], NULL, storm_in_thread, (void *)count));
    for (size_t i = 0; i < THREADS; i++)
        check(-pthread_join(threads[i], NULL));
    left_open += 2 * THREADS;
}

/* The child waits a while, so that it is traced by then, unless the parent ends first. */
SCENARIO open_in_child(size_t count) {
    int ends[2], alive[2];
    check(pipe(ends));
    check(pipe(alive));
    if (check(fork()) == 0) {
        close(alive[1]);
        struct pollfd end = {.fd = alive[0], .events = POLLIN};
        poll(&end, 1, 3000);
        open_files(count);
        check(write(ends[1], "x", 1));
        poll(&end, 1, -1);
        _exit(0);
    }
    char answer;
    check(close(ends[1]));
    check(read(ends[0], &answer, 1));
    left_open += 3;
}

SCENARIO allow(size_t count) {
    struct rlimit limit = {count, count};
    check(setrlimit(RLIMIT_NOFILE, &limit));
}

SCENARIO open_and_execute(char *self) {
    left(open(FILE_PATH, O_RDONLY | O_CLOEXEC));
    left(open(FILE_PATH, O_RDONLY));
    left(check(fcntl(0, F_DUPFD_CLOEXEC, 10)));
    char *argv[] = {self, NULL};
    execv("/proc/self/exe", argv);
    _exit(74);
}

static unsigned long long count_open(void) {
    DIR *folder = opendir("/proc/self/fd");
    unsigned long long count = 0;
    while (folder && readdir(folder))
        count++;
    if (folder)
        closedir(folder);
    return count - 3; /* itself, and two names of folders */
}

static void answer(void) {
    char line[64], *end = put_number(line, left_open);
    *end++ = ' ';
    end = put_number(end, count_open());
    *end++ = '\n';
    *end = '\0';
    say("done ");
    say(line);
}

static void run(const char *command, char *self) {
    char name[32] = "";
    size_t count = 0;
    (void)sscanf(command, "%31s %zu", name, &count);
    left_open = 0;
    if (!strcmp(name, "files"))
        open_files(count);
    else if (!strcmp(name, "sockets"))
        open_sockets(count);
    else if (!strcmp(name, "pipes"))
        open_pipes(count);
    else if (!strcmp(name, "copies"))
        open_copies(count);
    else if (!strcmp(name, "closed"))
        open_and_close(count);
    else if (!strcmp(name, "replaced"))
        replace(count);
    else if (!strcmp(name, "failures"))
        fail_to_open();
    else if (!strcmp(name, "kinds"))
        open_kinds();
    else if (!strcmp(name, "received"))
        receive(count);
    else if (!strcmp(name, "many"))
        receive_many(count);
    else if (!strcmp(name, "threads"))
        open_in_threads(count);
    else if (!strcmp(name, "storm"))
        storm(count);
    else if (!strcmp(name, "child"))
        open_in_child(count);
    else if (!strcmp(name, "limit"))
        allow(count);
    else if (!strcmp(name, "exec"))
        open_and_execute(self);
    else
        _exit(75);
}

int main(int argc, char **argv) {
    char line[64];

    check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    for (int i = 1; i < argc; i++)
        run(argv[i], argv[0]);
    if (argc > 1)
        return 0;
    say("ready\n");
    while (read_line(line, sizeof line)) {
        run(line, argv[0]);
        answer();
    }
    return 0;
}
