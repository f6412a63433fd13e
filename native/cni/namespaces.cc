#include "namespaces.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "json.h"

namespace cni {
namespace {

// 100,000 namespaces would not fill it.
constexpr size_t max_file_bytes = 8 << 20;

}  // namespace

Membership MembershipIn(std::string_view text, std::string_view space) {
  const auto file = json::Parse(text, nullptr);
  const json::Value* version = file ? file->Get("v") : nullptr;
  const json::Value* namespaces = file ? file->Get("namespaces") : nullptr;
  const bool is_ours = version != nullptr && version->raw == "1" && namespaces != nullptr && namespaces->kind == json::Kind::Object;
  if (!is_ours) return Membership::Unreadable;
  const json::Value* mode = namespaces->Get(space);
  if (mode == nullptr) return Membership::Outside;
  return mode->kind == json::Kind::String && mode->text == "open" ? Membership::Open : Membership::Closed;
}

Membership ReadMembership(const std::string& path, std::string_view space) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? Membership::NoMesh : Membership::Unreadable;
  std::string text;
  char buffer[16 << 10];
  struct stat about {};
  bool is_whole = false;
  if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode)) {
    for (;;) {
      const ssize_t count = read(fd, buffer, sizeof buffer);
      if (count < 0 && errno == EINTR) continue;
      is_whole = count == 0;
      if (count <= 0) break;
      text.append(buffer, static_cast<size_t>(count));
      if (text.size() > max_file_bytes) break;
    }
  }
  close(fd);
  return is_whole ? MembershipIn(text, space) : Membership::Unreadable;
}

}  // namespace cni
