#include "call.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>

namespace cni {
namespace {

using json::Kind;
using json::Value;

constexpr std::array<std::string_view, 5> versions = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
constexpr size_t max_name_bytes = 253;
constexpr size_t max_path_bytes = 4096;
constexpr size_t max_id_bytes = 1024;
constexpr size_t max_ips = 16;
constexpr size_t max_exempt = 100;
// The kubelet gives the runtime two minutes for a pod's sandbox.
constexpr int max_timeout_ms = 110'000;

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

bool IsName(std::string_view text) {
  return !text.empty() && text.size() <= max_name_bytes && std::all_of(text.begin(), text.end(), IsNameCharacter);
}

// Of `A=1;B=2`; empty where it is not said.
std::string_view Argument(std::string_view arguments, std::string_view key) {
  while (!arguments.empty()) {
    const size_t end = std::min(arguments.find(';'), arguments.size());
    const std::string_view pair = arguments.substr(0, end);
    if (pair.size() > key.size() && pair.substr(0, key.size()) == key && pair[key.size()] == '=') return pair.substr(key.size() + 1);
    arguments.remove_prefix(std::min(end + 1, arguments.size()));
  }
  return {};
}

// Nothing where the runtime does not run pods; an error where it names one as Kubernetes never would.
std::optional<Pod> ReadPod(std::string_view arguments, bool* is_wrong) {
  const std::string_view space = Argument(arguments, "K8S_POD_NAMESPACE");
  const std::string_view name = Argument(arguments, "K8S_POD_NAME");
  const std::string_view uid = Argument(arguments, "K8S_POD_UID");
  *is_wrong = false;
  if (space.empty() || name.empty()) return std::nullopt;
  *is_wrong = !IsName(space) || !IsName(name) || (!uid.empty() && !IsName(uid));
  if (*is_wrong) return std::nullopt;
  return Pod{std::string(space), std::string(name), std::string(uid)};
}

std::optional<int> ReadWhole(const Value& value) {
  if (value.kind != Kind::Number || value.raw.size() > 7) return std::nullopt;
  int number = 0;
  for (const char c : value.raw) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + (c - '0');
  }
  return number;
}

void ReadPath(const Value& config, std::string_view key, std::string& out) {
  const std::string_view path = config.Text(key);
  if (!path.empty() && path.size() <= max_path_bytes && path[0] == '/' && path.find('\0') == path.npos) out = path;
}

Options ReadOptions(const Value& config) {
  Options options;
  ReadPath(config, "socket", options.socket);
  ReadPath(config, "namespaces", options.namespaces);
  if (const Value* timeout = config.Get("timeoutMs"); timeout != nullptr) {
    if (const auto wanted = ReadWhole(*timeout)) options.timeout_ms = std::clamp(*wanted, 1, max_timeout_ms);
  }
  if (const Value* exempt = config.Get("exempt"); exempt != nullptr && exempt->kind == Kind::Array) {
    options.exempt.clear();
    for (const Value& each : exempt->items) {
      if (each.kind == Kind::String && IsName(each.text) && options.exempt.size() < max_exempt) options.exempt.push_back(each.text);
    }
  }
  return options;
}

// In the kernel's spelling; nothing where it is no address.
std::optional<std::string> CanonicalAddress(std::string_view text) {
  const std::string address(text.substr(0, text.find('/')));
  std::array<unsigned char, 16> bytes{};
  std::array<char, INET6_ADDRSTRLEN> spelled{};
  for (const int family : {AF_INET, AF_INET6}) {
    if (inet_pton(family, address.c_str(), bytes.data()) != 1) continue;
    if (inet_ntop(family, bytes.data(), spelled.data(), spelled.size()) == nullptr) return std::nullopt;
    return std::string(spelled.data());
  }
  return std::nullopt;
}

// An address may be said to belong to an interface on the node's side: that is not the pod's.
bool IsOfPod(const Value& ip, const Value& result) {
  const Value* index = ip.Get("interface");
  const Value* interfaces = result.Get("interfaces");
  if (index == nullptr || interfaces == nullptr || interfaces->kind != Kind::Array) return true;
  const auto at = ReadWhole(*index);
  if (!at || static_cast<size_t>(*at) >= interfaces->items.size()) return true;
  return !interfaces->items[static_cast<size_t>(*at)].Text("sandbox").empty();
}

std::vector<std::string> ReadIps(const Value& result) {
  std::vector<std::string> found;
  const Value* ips = result.Get("ips");
  if (ips == nullptr || ips->kind != Kind::Array) return found;
  for (const Value& ip : ips->items) {
    if (found.size() == max_ips) break;
    const std::string_view text = ip.Text("address");
    if (text.size() > INET6_ADDRSTRLEN + 4 || text.find('\0') != text.npos || !IsOfPod(ip, result)) continue;
    if (auto address = CanonicalAddress(text)) found.push_back(std::move(*address));
  }
  return found;
}

// The result that we pass on says the version that was asked for, whatever the one before us said.
std::string InVersion(const Value& result, std::string_view version) {
  const std::string spelled = json::Quote(version);
  const std::string_view raw = result.raw;
  if (const Value* said = result.Get("cniVersion")) {
    if (said->kind == Kind::String && said->text == version) return std::string(raw);
    const size_t at = static_cast<size_t>(said->raw.data() - raw.data());
    return std::string(raw.substr(0, at)) + spelled + std::string(raw.substr(at + said->raw.size()));
  }
  return "{\"cniVersion\":" + spelled + (result.members.empty() ? "" : ",") + std::string(raw.substr(1));
}

Call Assemble(const Environment& environment, const Value& config) {
  Call call;
  call.version = config.Text("cniVersion");
  call.container_id = environment("CNI_CONTAINERID").substr(0, max_id_bytes);
  call.netns = environment("CNI_NETNS");
  call.options = ReadOptions(config);
  if (const Value* result = config.Get("prevResult"); result != nullptr && result->kind == Kind::Object) {
    call.ips = ReadIps(*result);
    call.previous_result = InVersion(*result, call.version);
  }
  return call;
}

}  // namespace

bool IsSupported(std::string_view version) { return std::find(versions.begin(), versions.end(), version) != versions.end(); }

std::string VersionsText(std::string_view version) {
  std::string text = "{\"cniVersion\":" + json::Quote(version) + ",\"supportedVersions\":[";
  for (const std::string_view each : versions) {
    if (text.back() != '[') text += ',';
    text += json::Quote(each);
  }
  return text + "]}\n";
}

std::string ErrorText(std::string_view version, const Error& error) {
  std::string text = "{\"cniVersion\":" + json::Quote(version) + ",\"code\":" + std::to_string(static_cast<int>(error.code)) +
                     ",\"msg\":" + json::Quote(error.message);
  if (!error.details.empty()) text += ",\"details\":" + json::Quote(error.details);
  return text + "}\n";
}

std::string VersionOf(std::string_view input) {
  const auto config = json::Parse(input, nullptr);
  const std::string_view version = config ? config->Text("cniVersion") : std::string_view();
  return std::string(version.empty() || version.size() > 32 ? newest_version : version);
}

std::optional<Call> ReadCall(const Environment& environment, std::string_view input, Error* error) {
  const auto fail = [&](Code code, std::string message, std::string details = "") {
    *error = Error{code, std::move(message), std::move(details)};
    return std::nullopt;
  };
  if (input.size() > max_input_bytes) return fail(Code::Undecodable, "the network configuration is longer than 1 MiB");
  std::string why;
  const auto config = json::Parse(input, &why);
  if (!config) return fail(Code::Undecodable, "the network configuration is not JSON", why);
  if (config->kind != Kind::Object) return fail(Code::Undecodable, "the network configuration is no JSON object");
  const std::string_view version = config->Text("cniVersion");
  if (!IsSupported(version)) {
    return fail(Code::IncompatibleVersion, "cniVersion " + json::Quote(version) + " is none that sidestep-cni speaks",
                "it speaks 0.3.0 to 1.1.0");
  }
  for (const char* needed : {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}) {
    if (environment(needed).empty()) return fail(Code::InvalidEnvironment, std::string(needed) + " is missing");
  }
  if (environment("CNI_NETNS").size() > max_path_bytes) return fail(Code::InvalidEnvironment, "CNI_NETNS is too long");
  bool is_wrong = false;
  auto pod = ReadPod(environment("CNI_ARGS"), &is_wrong);
  if (is_wrong) return fail(Code::InvalidEnvironment, "CNI_ARGS names a pod as Kubernetes does not");
  Call call = Assemble(environment, *config);
  if (call.previous_result.empty()) {
    return fail(Code::InvalidConfiguration, "sidestep-cni must stand in a chain, behind the plugin that makes the pod's network",
                "there is no prevResult in its configuration");
  }
  call.pod = std::move(pod);
  return call;
}

Call ReadLateCall(const Environment& environment, std::string_view input) {
  const auto config = json::Parse(input.substr(0, max_input_bytes), nullptr);
  Call call = Assemble(environment, config ? *config : Value{});
  if (call.netns.size() > max_path_bytes) call.netns.clear();
  bool is_wrong = false;
  call.pod = ReadPod(environment("CNI_ARGS"), &is_wrong);
  return call;
}

std::string RequestLine(std::string_view command, const Call& call) {
  const Pod pod = call.pod.value_or(Pod{});
  std::string line = "{\"v\":1,\"command\":" + json::Quote(command) + ",\"namespace\":" + json::Quote(pod.space) +
                     ",\"name\":" + json::Quote(pod.name) + ",\"uid\":" + json::Quote(pod.uid) +
                     ",\"containerId\":" + json::Quote(call.container_id) + ",\"netns\":" + json::Quote(call.netns) + ",\"ips\":[";
  for (const std::string& ip : call.ips) {
    if (line.back() != '[') line += ',';
    line += json::Quote(ip);
  }
  return line + "]}\n";
}

}  // namespace cni
