#include "bpf_kind.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <initializer_list>
#include <string>
#include <string_view>

namespace sidestep {
namespace {

bool IsOneOf(int fd, std::initializer_list<std::string_view> kinds) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  std::array<char, 64> target{};
  const ssize_t length = readlink(path.c_str(), target.data(), target.size());
  if (length < 0) return false;
  const std::string_view found(target.data(), static_cast<std::size_t>(length));
  if (std::find(kinds.begin(), kinds.end(), found) != kinds.end()) return true;
  errno = EINVAL;
  return false;
}

}  // namespace

bool IsBpfMap(int fd) { return IsOneOf(fd, {"anon_inode:bpf-map"}); }

// The kernel has one name for the descriptor that made the link, and another for those opened later.
bool IsBpfLink(int fd) { return IsOneOf(fd, {"anon_inode:bpf_link", "anon_inode:bpf-link"}); }

}  // namespace sidestep
