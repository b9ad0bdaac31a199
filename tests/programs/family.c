/* A family of processes: each takes commands from its input, one per line, and passes on what is
 * for one of its children. The account of a process is what it has allocated itself since it began.
 *
 *   keep COUNT SIZE    allocate and keep; answers "done BYTES COUNT", its account
 *   lose COUNT SIZE    the same, but it forgets where they are
 *   drop               free what it has allocated itself, and what it has inherited
 *   fork COUNT         fork children that take commands, too; answers "done PID PID …"
 *   spawn PATH         the same for one child that executes a program, by posix_spawn
 *   vfork PATH         the same by vfork and exec
 *   to INDEX COMMAND   pass a command on to a child; answers what the child does
 *   exec PATH          become another program, which says "ready"
 *   storm COUNT        COUNT children that end at once, with a block kept after each fork
 *   throw INDEX SIGNAL send a signal to a child and wait for its end; answers its wait status
 *   pid                answers "done PID", as the process itself knows it
 *   exit CODE          end at once
 *
 * At the end of its input, a process waits for its children and ends with 0.
 */
#include "scenario.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>

enum { MOST_CHILDREN = 16, MOST_KEPT = 20000, LINE = 4096 };

extern char **environ;

struct child {
    pid_t pid;
    int commands, answers;
};

static struct child children[MOST_CHILDREN];
static size_t child_count;
static void *kept[MOST_KEPT];
static size_t kept_count;
static unsigned long long own_bytes, own_count;

SCENARIO scenario_keep(size_t count, size_t size) {
    for (size_t i = 0; i < count && kept_count < MOST_KEPT; i++) {
        if ((kept[kept_count++] = malloc(size)) == NULL)
            _exit(71);
        own_bytes += size;
        own_count++;
    }
    KEEP(kept);
}

SCENARIO scenario_lose(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++) {
        void *lost = calloc(1, size);
        if (lost == NULL)
            _exit(71);
        KEEP(lost);
        own_bytes += size;
        own_count++;
    }
}

SCENARIO scenario_drop(void) {
    while (kept_count > 0)
        free(kept[--kept_count]);
    own_bytes = own_count = 0;
    KEEP(kept);
}

static void answer(const char *what, unsigned long long first, unsigned long long second) {
    char line[80];
    size_t length = strlen(what);
    memcpy(line, what, length);
    line[length] = ' ';
    char *end = put_number(line + length + 1, first);
    *end++ = ' ';
    end = put_number(end, second);
    *end++ = '\n';
    *end = '\0';
    say(line);
}

static void answer_one(unsigned long long number) {
    print_result("done", number);
}

static int read_from(int fd, char *line) {
    size_t length = 0;
    char character;
    while (length + 1 < LINE && read(fd, &character, 1) == 1 && character != '\n')
        line[length++] = character;
    line[length] = '\0';
    return length > 0;
}

/* Two pipes; returns the ends of the child: its input and its output. */
static struct child *begin_child(int ends[2]) {
    int commands[2], answers[2];
    if (child_count == MOST_CHILDREN || pipe2(commands, O_CLOEXEC) != 0 ||
        pipe2(answers, O_CLOEXEC) != 0)
        _exit(72);
    struct child *child = &children[child_count++];
    child->commands = commands[1];
    child->answers = answers[0];
    ends[0] = commands[0];
    ends[1] = answers[1];
    return child;
}

static void end_beginning(struct child *child, pid_t pid, const int ends[2]) {
    if (pid < 0)
        _exit(76);
    child->pid = pid;
    close(ends[0]);
    close(ends[1]);
}

static void become_a_child(const int ends[2]) {
    dup2(ends[0], 0);
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    for (size_t i = 0; i < child_count; i++) {
        close(children[i].commands);
        close(children[i].answers);
    }
    child_count = 0;
    own_bytes = own_count = 0;
}

static void fork_children(size_t count) {
    char line[400] = "done";
    char *end = line + 4;
    for (size_t i = 0; i < count; i++) {
        int ends[2];
        struct child *child = begin_child(ends);
        pid_t pid = fork();
        if (pid == 0) {
            become_a_child(ends);
            return;
        }
        end_beginning(child, pid, ends);
        *end++ = ' ';
        end = put_number(end, (unsigned long long)pid);
    }
    *end++ = '\n';
    *end = '\0';
    say(line);
}

static void await_ready(const struct child *child) {
    char line[LINE];
    if (!read_from(child->answers, line) || strcmp(line, "ready") != 0)
        _exit(73);
    answer_one((unsigned long long)child->pid);
}

static void spawn(char *path) {
    int ends[2];
    pid_t pid = -1;
    struct child *child = begin_child(ends);
    char *arguments[] = {path, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    if (posix_spawn(&pid, path, &actions, NULL, arguments, environ) != 0)
        _exit(83);
    posix_spawn_file_actions_destroy(&actions);
    end_beginning(child, pid, ends);
    await_ready(child);
}

static void vfork_and_execute(const char *path) {
    int ends[2];
    struct child *child = begin_child(ends);
    pid_t pid = vfork();
    if (pid == 0) {
        dup2(ends[0], 0);
        dup2(ends[1], 1);
        execl(path, path, (char *)NULL);
        _exit(77);
    }
    end_beginning(child, pid, ends);
    await_ready(child);
}

static void pass_on(char *rest) {
    char line[LINE];
    char *command = NULL;
    const struct child *child = &children[strtoul(rest, &command, 10)];
    size_t length = strlen(command);
    command[length] = '\n';
    if (write(child->commands, command + 1, length) != (ssize_t)length)
        _exit(74);
    command[length] = '\0';
    if (!read_from(child->answers, line))
        strcpy(line, "done"); /* it has ended */
    if (strcmp(line, "ready") == 0)
        strcpy(line, "done"); /* it is another program now */
    line[strlen(line) + 1] = '\0';
    line[strlen(line)] = '\n';
    say(line);
}

static void storm(size_t count) {
    for (size_t i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        scenario_keep(1, 100);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            _exit(76);
    }
    answer("done", own_bytes, own_count);
}

static void throw_at(size_t index, int signal) {
    int status = 0;
    if (kill(children[index].pid, signal) != 0 ||
        waitpid(children[index].pid, &status, 0) != children[index].pid)
        _exit(75);
    answer_one((unsigned long long)status);
}

static void obey(const char *command, char *rest) {
    char *end = NULL;
    if (strcmp(command, "keep") == 0) {
        size_t count = strtoul(rest, &end, 10);
        scenario_keep(count, strtoul(end, NULL, 10));
        answer("done", own_bytes, own_count);
    } else if (strcmp(command, "lose") == 0) {
        size_t count = strtoul(rest, &end, 10);
        scenario_lose(count, strtoul(end, NULL, 10));
        answer("done", own_bytes, own_count);
    } else if (strcmp(command, "drop") == 0) {
        scenario_drop();
        say("done\n");
    } else if (strcmp(command, "fork") == 0) {
        fork_children(strtoul(rest, NULL, 10));
    } else if (strcmp(command, "spawn") == 0) {
        spawn(rest);
    } else if (strcmp(command, "vfork") == 0) {
        vfork_and_execute(rest);
    } else if (strcmp(command, "to") == 0) {
        pass_on(rest);
    } else if (strcmp(command, "exec") == 0) {
        execl(rest, rest, (char *)NULL);
        _exit(77);
    } else if (strcmp(command, "storm") == 0) {
        storm(strtoul(rest, NULL, 10));
    } else if (strcmp(command, "throw") == 0) {
        size_t index = strtoul(rest, &end, 10);
        throw_at(index, (int)strtoul(end, NULL, 10));
    } else if (strcmp(command, "pid") == 0) {
        answer_one((unsigned long long)getpid());
    } else if (strcmp(command, "exit") == 0) {
        _exit((int)strtoul(rest, NULL, 10));
    } else {
        _exit(78);
    }
}

int main(void) {
    char line[LINE], none[1] = "";
    signal(SIGPIPE, SIG_IGN);
    say("ready\n");
    while (read_line(line, sizeof line)) {
        char *rest = strchr(line, ' ');
        if (rest != NULL)
            *rest++ = '\0';
        obey(line, rest == NULL ? none : rest);
    }
    for (size_t i = 0; i < child_count; i++)
        close(children[i].commands);
    while (wait(NULL) > 0)
        continue;
    return 0;
}
