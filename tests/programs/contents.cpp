// Blocks whose contents are known. Prints what they are: "truth NAME VALUE". The requests are those
// of a child, which ends with its parent.

#include "scenario.h"

#include <csignal>
#include <cstdio>
#include <sys/prctl.h>
#include <typeinfo>

enum { COUNT = 300 };

int variable = 7;

extern "C" SCENARIO on_event(void *argument) {
    KEEP(argument);
}

struct Session {
    virtual ~Session() {}
    long number = 0x1122334455667788;
};

struct Node {
    void (*handler)(void *);
    Session *session;
    Node *self;
    int *variable;
    void *stack;
};

static Session *sessions[COUNT];
static Node *nodes[COUNT];
static char *requests[COUNT], *hostile[COUNT], *large;

static void truth(const char *name, const void *value) {
    char line[200];
    snprintf(line, sizeof line, "truth %s %p\n", name, value);
    say(line);
}

// The bytes themselves.
static void truth_bytes(const char *name, const void *block, size_t size) {
    char line[600];
    int at = snprintf(line, sizeof line, "truth %s ", name);
    for (size_t i = 0; i < size; i++)
        at += snprintf(line + at, sizeof line - at, "%02x", static_cast<const uint8_t *>(block)[i]);
    snprintf(line + at, sizeof line - at, "\n");
    say(line);
}

extern "C" SCENARIO make_sessions() {
    for (auto &one : sessions)
        one = new Session;
    KEEP(sessions);
}

extern "C" SCENARIO make_requests() {
    for (int i = 0; i < COUNT; i++) {
        requests[i] = static_cast<char *>(calloc(1, opaque(64)));
        snprintf(requests[i], 64, i % 100 == 99 ? "PUT /other/%03d" : "GET /api/%03d", i);
    }
    KEEP(requests);
}

extern "C" SCENARIO make_nodes() {
    for (int i = 0; i < COUNT; i++) {
        Node *one = nodes[i] = static_cast<Node *>(malloc(opaque(sizeof(Node))));
        *one = {on_event, sessions[i], one, &variable, &i};
    }
    KEEP(nodes);
}

extern "C" SCENARIO make_hostile() {
    static const char text[] =
        "\x1b[31mred\x1b[0m\x07 \xff\xfe\x80 left\xe2\x80\xaeright\r\nforged";
    for (auto &one : hostile) {
        one = static_cast<char *>(malloc(opaque(96)));
        memset(one, 0x9b, 96);
        memcpy(one, text, sizeof text);
    }
    KEEP(hostile);
}

extern "C" SCENARIO make_large() {
    large = static_cast<char *>(malloc(opaque(1u << 30))); // of which one page is touched
    strcpy(large, "large block");
    KEEP(large);
}

static int from_child[2], to_child[2];

static void await_byte(int end) {
    char byte;
    if (read(end, &byte, 1) != 1)
        _exit(70);
}

static void send_byte(int end) {
    if (write(end, "", 1) != 1)
        _exit(70);
}

static void start_child() {
    if (pipe(from_child) != 0 || pipe(to_child) != 0)
        _exit(70);
    if (fork() != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    await_byte(to_child[0]);
    make_requests();
    truth_bytes("request", requests[0], 64);
    send_byte(from_child[1]);
    for (;;)
        pause();
}

int main() {
    await_go();
    make_sessions();
    make_nodes();
    make_hostile();
    make_large();
    start_child();
    truth("session", sessions[0]);
    truth("node", nodes[0]);
    truth("handler", reinterpret_cast<void *>(on_event));
    truth("variable", &variable);
    truth("large", large);
    truth_bytes("vtable", sessions[0], sizeof(void *));
    truth_bytes("nodes", nodes[0], sizeof(Node));
    truth_bytes("hostile", hostile[0], 96);
    done();
    send_byte(to_child[1]);
    await_byte(from_child[0]);
    done();
}
