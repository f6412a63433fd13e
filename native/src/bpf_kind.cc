#include "bpf_kind.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <string_view>

namespace sidestep {

bool IsBpfKind(int fd, const char* kind) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  std::array<char, 64> target{};
  const ssize_t length = readlink(path.c_str(), target.data(), target.size());
  if (length < 0) return false;
  if (std::string_view(target.data(), static_cast<std::size_t>(length)) == std::string("anon_inode:") + kind) return true;
  errno = EINVAL;
  return false;
}

}  // namespace sidestep
