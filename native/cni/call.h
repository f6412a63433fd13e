// One call of the plugin as the runtime makes it: what stands in the environment and on standard input, checked. Nothing here
// opens a socket or a file, so that all of it can be fuzzed.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace cni {

// Codes of the CNI specification.
enum class Code {
  IncompatibleVersion = 1,
  InvalidEnvironment = 4,
  Io = 5,
  Undecodable = 6,
  InvalidConfiguration = 7,
  TryAgainLater = 11,
};

struct Error {
  Code code;
  std::string message;
  std::string details;
};

// What the agent wrote into our entry of the chain. What is wrong or missing there is what it is here.
struct Options {
  std::string socket = "/run/sidestep/cni.sock";
  std::string namespaces = "/var/lib/sidestep/cni/namespaces.json";
  int timeout_ms = 20'000;
  // Namespaces that never wait: ours, because the agent itself starts there.
  std::vector<std::string> exempt = {"sidestep-system"};
};

struct Pod {
  std::string space;
  std::string name;
  std::string uid;
};

struct Call {
  std::string version;
  std::string container_id;
  std::string netns;
  // Nothing where the runtime is not Kubernetes'.
  std::optional<Pod> pod;
  std::vector<std::string> ips;
  // As it came, with the version asked for; empty where there is none.
  std::string previous_result;
  Options options;
};

using Environment = std::function<std::string_view(const char* name)>;

inline constexpr std::string_view newest_version = "1.1.0";
// Longer input is refused.
inline constexpr size_t max_input_bytes = 1 << 20;

bool IsSupported(std::string_view version);

// What VERSION prints.
std::string VersionsText(std::string_view version);
// What stands on standard output where a call fails.
std::string ErrorText(std::string_view version, const Error& error);

// `cniVersion` of the input; the newest that we know where it cannot be told.
std::string VersionOf(std::string_view input);

// For ADD and CHECK. `error` is set where there is nothing.
std::optional<Call> ReadCall(const Environment& environment, std::string_view input, Error* error);
// For DEL, which must not fail: as much as there is.
Call ReadLateCall(const Environment& environment, std::string_view input);

// The line that asks the agent.
std::string RequestLine(std::string_view command, const Call& call);

}  // namespace cni
