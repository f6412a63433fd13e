// sidestep-cni, the last plugin in a node's chain: holds the start of a pod of the mesh until the node agent says that its traffic
// is captured. It changes nothing about the pod's network and passes the result of the plugins before it on as it is. What must not
// happen: that it holds a pod that is none of the mesh, waits without end, or fails a DEL. It talks to the agent's socket alone.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <string_view>

#include "agent.h"
#include "call.h"
#include "namespaces.h"

namespace {

using cni::Answer;
using cni::Call;
using cni::Code;
using cni::Error;
using cni::Membership;
using cni::Mode;

constexpr int64_t input_timeout_ms = 10'000;
// A second without an agent: longer than the gap between two of them.
constexpr int patient_attempts = 10;
constexpr int late_timeout_ms = 2'000;

std::string_view Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

void WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    // Nobody reads: there is no one left to tell.
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

// One line, whatever stands in it.
void Warn(std::string_view command, const Call& call, std::string_view message) {
  std::string line = "sidestep-cni: " + std::string(command);
  if (call.pod) line += " " + call.pod->space + "/" + call.pod->name;
  line += ": " + std::string(message);
  std::replace_if(line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  WriteAll(STDERR_FILENO, line + "\n");
}

// Up to one byte more than may be, within the time.
std::string ReadInput() {
  std::string input;
  const int64_t deadline = cni::NowMs() + input_timeout_ms;
  char buffer[16 << 10];
  while (input.size() <= cni::max_input_bytes) {
    pollfd wanted{STDIN_FILENO, POLLIN, 0};
    const int64_t left = deadline - cni::NowMs();
    const int ready = left <= 0 ? 0 : poll(&wanted, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) break;
    const ssize_t count = read(STDIN_FILENO, buffer, sizeof buffer);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) break;
    input.append(buffer, static_cast<size_t>(count));
  }
  return input;
}

int Fail(std::string_view version, const Error& error) {
  WriteAll(STDOUT_FILENO, cni::ErrorText(version, error));
  return 1;
}

int Pass(const Call& call) {
  WriteAll(STDOUT_FILENO, call.previous_result + "\n");
  return 0;
}

bool IsExempt(const Call& call) {
  const auto& exempt = call.options.exempt;
  return !call.pod || std::find(exempt.begin(), exempt.end(), call.pod->space) != exempt.end();
}

Error Held(std::string message, const std::string& because, const std::string& namespaces) {
  return {Code::TryAgainLater, std::move(message),
          because + ". If Sidestep is no longer installed, run `sidestep uninstall` or remove " + namespaces + " from this node"};
}

// Whether the pod has to wait, and why. Says on standard error what lets it pass without the mesh.
bool MustHold(std::string_view command, const Call& call, Error* error) {
  if (IsExempt(call)) return false;
  const auto& [socket, namespaces, timeout_ms, exempt] = call.options;
  Membership membership = cni::ReadMembership(namespaces, call.pod->space);
  // What is left of a mesh that was removed holds nobody up.
  if (membership == Membership::NoMesh && access(socket.c_str(), F_OK) != 0) return false;

  const Answer answer = cni::AskAgent(socket, cni::RequestLine(command, call), timeout_ms, patient_attempts);
  const std::string& because = answer.because;
  const std::string pod = call.pod->space + "/" + call.pod->name;
  if (answer.kind == Answer::Kind::Accepted) return false;
  if (answer.kind == Answer::Kind::Refused) {
    const bool is_open = answer.mode == Mode::Open || (answer.mode == Mode::Unsaid && membership == Membership::Open);
    if (is_open) {
      Warn(command, call, "passes without the mesh, its failure mode is open: " + because);
      return false;
    }
    *error = Error{Code::TryAgainLater, "Sidestep cannot capture pod " + pod + " yet", because};
    return true;
  }

  // Long enough for the file to have changed.
  membership = cni::ReadMembership(namespaces, call.pod->space);
  const bool is_check = command == "CHECK";
  const std::string waits = "pod " + pod + " waits for Sidestep's agent on this node, because ";
  switch (membership) {
    case Membership::NoMesh:
    case Membership::Outside:
      return false;
    case Membership::Open:
      Warn(command, call, "passes without the mesh, its namespace's failure mode is open: " + because);
      return false;
    case Membership::Closed:
      if (is_check) break;
      *error = Held(waits + "its namespace's failure mode is closed", because, namespaces);
      return true;
    case Membership::Unreadable:
      if (is_check) break;
      *error = Held(waits + namespaces + " cannot be understood", because, namespaces);
      return true;
  }
  // What was captured stays captured without the agent.
  Warn(command, call, "cannot be checked: " + because);
  return false;
}

int AddOrCheck(std::string_view command, std::string_view input) {
  Error error;
  const auto call = cni::ReadCall(Environment, input, &error);
  if (!call) {
    const std::string version = cni::VersionOf(input.substr(0, cni::max_input_bytes));
    Warn(command, Call{}, error.message);
    return Fail(cni::IsSupported(version) ? version : cni::newest_version, error);
  }
  if (MustHold(command, *call, &error)) {
    Warn(command, *call, error.message + ": " + error.details);
    return Fail(call->version, error);
  }
  return command == "ADD" ? Pass(*call) : 0;
}

int Delete(std::string_view input) {
  const Call call = cni::ReadLateCall(Environment, input);
  if (IsExempt(call) || access(call.options.socket.c_str(), F_OK) != 0) return 0;
  const int timeout_ms = std::min(call.options.timeout_ms, late_timeout_ms);
  const Answer answer = cni::AskAgent(call.options.socket, cni::RequestLine("DEL", call), timeout_ms, 1);
  if (answer.kind != Answer::Kind::Accepted) Warn("DEL", call, answer.because);
  return 0;
}

}  // namespace

int main() {
  signal(SIGPIPE, SIG_IGN);
  const std::string_view command = Environment("CNI_COMMAND");
  if (command.empty()) {
    WriteAll(STDERR_FILENO, "sidestep-cni is a CNI plugin: container runtimes call it, with CNI_COMMAND in the environment.\n");
    return Fail(cni::newest_version, {Code::InvalidEnvironment, "CNI_COMMAND is missing", ""});
  }
  const std::string input = ReadInput();
  if (command == "ADD" || command == "CHECK") return AddOrCheck(command, input);
  if (command == "DEL") return Delete(input);
  if (command == "VERSION") {
    WriteAll(STDOUT_FILENO, cni::VersionsText(cni::VersionOf(input)));
    return 0;
  }
  // Nothing of ours is left over for GC to find, and to be not ready would hold pods that are none of ours.
  if (command == "GC" || command == "STATUS") return 0;
  return Fail(cni::newest_version, {Code::InvalidEnvironment, "CNI_COMMAND is none of ADD, DEL, CHECK, GC, STATUS, VERSION", ""});
}
