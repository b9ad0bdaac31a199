// A server that forgets the sessions of users who fail to log in. It has done so before anyone
// looked: it makes 20,000 sessions at once, and then waits.
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

namespace shop {

class Session {
  public:
    explicit Session(int user) : request("GET /login?user=" + std::to_string(user)) {}
    virtual ~Session() = default;

  private:
    std::string request;
    char state[200] = {};
};

} // namespace shop

static std::vector<std::unique_ptr<shop::Session>> open_sessions;

[[gnu::noinline]] static void log_in(int user) {
    auto *session = new shop::Session(user);
    if (user % 4 != 0) // else it should be deleted
        open_sessions.emplace_back(session);
}

int main() {
    for (int user = 0; user < 20'000; user++)
        log_in(user);
    for (;;)
        pause();
}
