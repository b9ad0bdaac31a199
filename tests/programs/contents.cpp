// Blocks whose contents are known: what the test expects is printed as "truth KIND VALUE".

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <typeinfo>
#include <unistd.h>

#define KEEP(pointer) asm volatile("" : : "r"(pointer) : "memory")

enum { COUNT = 300 };

int variable = 7;

extern "C" __attribute__((noinline)) void on_event(void *argument) { KEEP(argument); }

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
static char *requests[COUNT], *hostile[COUNT], *large;
static Node *nodes[COUNT];
static void *volatile churned;

extern "C" __attribute__((noinline)) void make_sessions() {
  for (auto &one : sessions) one = new Session;
  KEEP(sessions);
}

extern "C" __attribute__((noinline)) void make_requests() {
  for (int i = 0; i < COUNT; i++) {
    requests[i] = static_cast<char *>(malloc(64));
    memset(requests[i], 0, 64);
    snprintf(requests[i], 64, i % 100 == 99 ? "PUT /other/%03d" : "GET /api/%03d", i);
  }
  KEEP(requests);
}

extern "C" __attribute__((noinline)) void make_nodes() {
  for (int i = 0; i < COUNT; i++) {
    Node *one = nodes[i] = static_cast<Node *>(malloc(sizeof(Node)));
    *one = {on_event, sessions[i], one, &variable, &i};
  }
  KEEP(nodes);
}

extern "C" __attribute__((noinline)) void make_hostile() {
  static const char text[] = "\x1b[31mred\x1b[0m\x07 \xff\xfe\x80 left\xe2\x80\xaeright\r\nforged";
  for (auto &one : hostile) {
    one = static_cast<char *>(malloc(96));
    memset(one, 0x9b, 96);
    memcpy(one, text, sizeof text);
  }
  KEEP(hostile);
}

extern "C" __attribute__((noinline)) void make_large() {
  large = static_cast<char *>(malloc(1u << 30));  // one page of it is touched
  strcpy(large, "large block");
  KEEP(large);
}

int main() {
  getchar();
  make_sessions();
  make_requests();
  make_nodes();
  make_hostile();
  make_large();
  printf("truth class %s\n", typeid(*sessions[0]).name());
  printf("truth session %p\n", static_cast<void *>(sessions[0]));
  printf("truth vtable %p\n", *reinterpret_cast<void **>(sessions[0]));
  printf("truth node %p\n", static_cast<void *>(nodes[0]));
  printf("truth handler %p\n", reinterpret_cast<void *>(on_event));
  printf("truth variable %p\n", static_cast<void *>(&variable));
  printf("truth request %p\n", static_cast<void *>(requests[0]));
  printf("truth large %p\n", static_cast<void *>(large));
  printf("end\n");
  fflush(stdout);
  for (;;) pause();
}
