// The little of rtnetlink and sock_diag that capturing needs: one request, its answers, on a socket of the calling
// thread's network namespace. Nothing is kept open between calls.
#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "errors.h"

namespace sidestep {

class NetlinkRequest {
 public:
  NetlinkRequest(std::uint16_t type, std::uint16_t flags);

  /** Appends `size` bytes, padded to 4. */
  void Append(const void* data, std::size_t size);
  void Attribute(std::uint16_t type, const void* data, std::size_t size);
  void Attribute(std::uint16_t type, std::uint32_t value) { Attribute(type, &value, sizeof(value)); }

  /** Sends it and hands every answer to `on_message`, until the end of the dump or the acknowledgement. */
  Failure Exchange(int protocol, const std::function<void(const nlmsghdr*)>& on_message);

 private:
  std::vector<std::uint8_t> bytes_;
};

}  // namespace sidestep
