// Feeds the plugin's readers from standard input: blocks of a length (four bytes, little-endian) and so many bytes, each through
// everything that reads what comes from outside. Built with sanitizers by fuzz.test.ts; prints what it made of each block.
#include <cstdint>
#include <cstdio>
#include <string>

#include "../../native/cni/agent.h"
#include "../../native/cni/call.h"
#include "../../native/cni/json.h"
#include "../../native/cni/namespaces.h"

namespace {

void Feed(const std::string& input) {
  const auto environment = [&](const char* name) -> std::string_view {
    return std::string_view(name) == "CNI_ARGS" ? std::string_view("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=1") : std::string_view("x");
  };
  std::string why;
  const auto value = json::Parse(input, &why);
  cni::Error error{};
  const auto call = cni::ReadCall(environment, input, &error);
  const auto late = cni::ReadLateCall(environment, input);
  const auto answer = cni::ReadAnswer(input);
  const auto membership = cni::MembershipIn(input, "shop");
  const std::string request = cni::RequestLine("ADD", call ? *call : late);
  const std::string error_text = cni::ErrorText(cni::VersionOf(input), error);
  const bool is_whole = json::Parse(request, nullptr).has_value() && json::Parse(error_text, nullptr).has_value() &&
                        (!call || json::Parse(call->previous_result, nullptr).has_value()) &&
                        json::Parse(json::Quote(input), nullptr).has_value();
  // As arguments too: what a pod is called comes from outside as well.
  const auto arguments = [&](const char* name) -> std::string_view { return std::string_view(name) == "CNI_ARGS" ? std::string_view(input) : std::string_view("x"); };
  const auto named = cni::ReadLateCall(arguments, "{}");
  printf("%d %d %d %d %d %s\n", value ? 1 : 0, call ? 1 : 0, static_cast<int>(answer.kind), static_cast<int>(membership), named.pod ? 1 : 0,
         is_whole ? "whole" : "BROKEN");
}

}  // namespace

int main() {
  uint8_t length[4];
  std::string input;
  while (fread(length, 1, 4, stdin) == 4) {
    input.resize(length[0] | length[1] << 8 | length[2] << 16 | static_cast<uint32_t>(length[3]) << 24);
    if (fread(input.data(), 1, input.size(), stdin) != input.size()) return 2;
    Feed(input);
  }
  return 0;
}
