#include "agent.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>

#include "json.h"

namespace cni {
namespace {

constexpr size_t max_answer_bytes = 64 << 10;
constexpr int pause_ms = 100;

// Owns the descriptor.
class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {}
  ~Connection() {
    if (fd_ >= 0) close(fd_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

void Pause(int ms) {
  timespec left{ms / 1000, (ms % 1000) * 1'000'000L};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

// False when the time is over.
bool WaitFor(int fd, short events, int64_t deadline) {
  for (;;) {
    const int64_t left = deadline - NowMs();
    if (left <= 0) return false;
    pollfd wanted{fd, events, 0};
    const int ready = poll(&wanted, 1, static_cast<int>(left));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

struct Attempt {
  Answer answer;
  // Whether another attempt may find somebody.
  bool is_worth_another = false;
};

Attempt Away(std::string because, bool is_worth_another) {
  return {Answer{Answer::Kind::Away, std::move(because), Mode::Unsaid}, is_worth_another};
}

Attempt AskOnce(const sockaddr_un& address, std::string_view line, int timeout_ms, int64_t deadline) {
  const Connection connection(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int fd = connection.fd();
  if (fd < 0) return Away(std::string("no socket: ") + strerror(errno), true);
  // A unix socket connects at once; EAGAIN says that its queue is full.
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Away(std::string("nobody answers on ") + address.sun_path + ": " + strerror(errno), true);
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || (peer.uid != 0 && peer.uid != geteuid())) {
    return Away(std::string("who listens on ") + address.sun_path + " is not root", false);
  }
  const std::string late = "no answer within " + std::to_string(timeout_ms) + " ms";
  while (!line.empty()) {
    const ssize_t sent = send(fd, line.data(), line.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      line.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      if (!WaitFor(fd, POLLOUT, deadline)) return Away(late, false);
    } else if (errno != EINTR) {
      return Away(std::string("the agent left: ") + strerror(errno), true);
    }
  }
  std::string received;
  char buffer[4096];
  for (;;) {
    const ssize_t count = recv(fd, buffer, sizeof buffer, 0);
    if (count > 0) {
      const std::string_view chunk(buffer, static_cast<size_t>(count));
      const size_t end = chunk.find('\n');
      received.append(chunk.substr(0, end));
      if (end != chunk.npos) return {ReadAnswer(received), false};
      if (received.size() > max_answer_bytes) return Away("the agent's answer is too long", false);
    } else if (count == 0) {
      return Away("the agent left without an answer", true);
    } else if (errno == EAGAIN) {
      if (!WaitFor(fd, POLLIN, deadline)) return Away(late, false);
    } else if (errno != EINTR) {
      return Away(std::string("the agent left: ") + strerror(errno), true);
    }
  }
}

}  // namespace

int64_t NowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

Answer ReadAnswer(std::string_view line) {
  const auto value = json::Parse(line, nullptr);
  const json::Value* ok = value ? value->Get("ok") : nullptr;
  if (ok != nullptr && ok->kind == json::Kind::True) return {Answer::Kind::Accepted, "", Mode::Unsaid};
  if (ok == nullptr || ok->kind != json::Kind::False) return {Answer::Kind::Away, "what answers is no agent of ours", Mode::Unsaid};
  Answer answer{Answer::Kind::Refused, std::string(value->Text("because")), Mode::Unsaid};
  const std::string_view mode = value->Text("failureMode");
  if (mode == "open") answer.mode = Mode::Open;
  if (mode == "closed") answer.mode = Mode::Closed;
  return answer;
}

Answer AskAgent(const std::string& path, std::string_view line, int timeout_ms, int attempts) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Away("the socket's path is too long", false).answer;
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int64_t deadline = NowMs() + timeout_ms;
  for (int attempt = 1;; ++attempt) {
    Attempt made = AskOnce(address, line, timeout_ms, deadline);
    if (!made.is_worth_another || attempt >= attempts || NowMs() + pause_ms >= deadline) return made.answer;
    Pause(pause_ms);
  }
}

}  // namespace cni
