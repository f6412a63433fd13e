#include "netlink.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "unique_fd.h"

namespace sidestep {
namespace {

constexpr std::size_t kReceiveBytes = 64 * 1024;

}  // namespace

NetlinkRequest::NetlinkRequest(std::uint16_t type, std::uint16_t flags) {
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
  header.nlmsg_seq = 1;
  Append(&header, sizeof(header));
}

void NetlinkRequest::Append(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  bytes_.insert(bytes_.end(), bytes, bytes + size);
  bytes_.resize((bytes_.size() + 3) / 4 * 4);
}

void NetlinkRequest::Attribute(std::uint16_t type, const void* data, std::size_t size) {
  nlattr header{};
  header.nla_type = type;
  header.nla_len = static_cast<std::uint16_t>(sizeof(header) + size);
  Append(&header, sizeof(header));
  Append(data, size);
}

Failure NetlinkRequest::Exchange(int protocol, const std::function<void(const nlmsghdr*)>& on_message) {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd.IsOpen()) return LastFailure("socket netlink");
  auto* header = reinterpret_cast<nlmsghdr*>(bytes_.data());
  header->nlmsg_len = static_cast<std::uint32_t>(bytes_.size());
  if (send(fd.Get(), bytes_.data(), bytes_.size(), 0) < 0) return LastFailure("send netlink");
  std::vector<std::uint8_t> buffer(kReceiveBytes);
  const bool is_dump = (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  while (true) {
    const ssize_t length = recv(fd.Get(), buffer.data(), buffer.size(), 0);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return LastFailure("recv netlink");
    auto left = static_cast<std::uint32_t>(length);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE) {
        // The dump's own outcome: what came before it is not all if it is an error.
        int error = 0;
        if (message->nlmsg_len >= NLMSG_LENGTH(sizeof(error))) std::memcpy(&error, NLMSG_DATA(message), sizeof(error));
        return error < 0 ? Failure{-error, "netlink", {}} : Failure{};
      }
      if (message->nlmsg_type == NLMSG_ERROR) {
        const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(message));
        return error->error == 0 ? Failure{} : Failure{-error->error, "netlink", {}};
      }
      on_message(message);
      if (!is_dump && (header->nlmsg_flags & NLM_F_ACK) == 0) return {};
    }
  }
}

}  // namespace sidestep
