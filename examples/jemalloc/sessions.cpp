// sessions N: N users log in, ask something and log out, all of it in one process.
//
// The cache forgets a session at the logout, and the destructor of a session closes its connection.
// But a session holds its connection, and the connection its session: the two keep each other
// alive, and no destructor ever runs. 4,000 bytes of history per user are lost with each pair.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>

struct Session;

struct Connection {
    explicit Connection(std::shared_ptr<Session> owner) : session(std::move(owner)) {}

    std::shared_ptr<Session> session; // should be a std::weak_ptr
};

struct Session {
    explicit Session(int user_id) : user(user_id) {}

    void remember(const std::string &request) {
        std::snprintf(history.data(), history.size(), "%s", request.c_str());
    }

    int user;
    std::shared_ptr<Connection> connection;
    std::array<char, 4000> history{};
};

class SessionCache {
  public:
    [[gnu::noinline]] std::shared_ptr<Session> login(int user) {
        auto session = std::make_shared<Session>(user);
        session->connection = std::make_shared<Connection>(session);
        sessions[user] = session;
        return session;
    }

    [[gnu::noinline]] void logout(int user) {
        sessions.erase(user);
    }

    std::size_t size() const {
        return sessions.size();
    }

  private:
    std::unordered_map<int, std::shared_ptr<Session>> sessions;
};

[[gnu::noinline]] static void serve(SessionCache &cache, int user) {
    auto session = cache.login(user);
    session->remember("GET /account/" + std::to_string(user) + "/orders?page=1");
    cache.logout(user);
}

int main(int argc, char **argv) {
    int users = argc > 1 ? std::atoi(argv[1]) : 1000;
    SessionCache cache;

    for (int user = 0; user < users; user++)
        serve(cache, user);
    std::printf("%d users served, %zu sessions in the cache\n", users, cache.size());
    return 0;
}
