#include "live_socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "arguments.h"
#include "errors.h"

namespace sidestep {

Napi::Value PollErrors(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    ThrowExpected(env, "fds", "an Int32Array of descriptors");
    return env.Undefined();
  }
  Napi::Int32Array fds = info[0].As<Napi::Int32Array>();
  std::vector<pollfd> entries(fds.ElementLength());
  // Asking for no event, only what is always told: errors and hang-ups. The error stays in the socket for who reads it.
  for (std::size_t i = 0; i < entries.size(); i++) entries[i] = pollfd{fds[i], 0, 0};
  if (poll(entries.data(), entries.size(), 0) < 0) {
    Throw(env, LastFailure("poll"));
    return env.Undefined();
  }
  std::vector<std::int32_t> positions;
  for (std::size_t i = 0; i < entries.size(); i++) {
    if ((entries[i].revents & POLLERR) != 0) positions.push_back(static_cast<std::int32_t>(i));
  }
  Napi::Int32Array found = Napi::Int32Array::New(env, positions.size());
  if (!positions.empty() && !found.IsEmpty()) std::memcpy(found.Data(), positions.data(), positions.size() * sizeof(std::int32_t));
  return found;
}

Napi::Value AbortOnClose(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::uint32_t fd = 0;
  if (!ReadUint32(info[0], "fd", &fd, INT32_MAX)) return env.Undefined();
  const linger abort{.l_onoff = 1, .l_linger = 0};
  if (setsockopt(static_cast<int>(fd), SOL_SOCKET, SO_LINGER, &abort, sizeof(abort)) != 0) Throw(env, LastFailure("setsockopt SO_LINGER"));
  return env.Undefined();
}

Napi::Value TrySend(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::uint32_t fd = 0;
  std::uint32_t length = 0;
  Bytes bytes;
  if (!ReadUint32(info[0], "fd", &fd, INT32_MAX) || !ReadBytes(info[1], "bytes", &bytes)) return env.Undefined();
  const auto most = static_cast<std::uint32_t>(std::min<std::size_t>(bytes.size(), INT32_MAX));
  if (!ReadUint32(info[2], "length", &length, most)) return env.Undefined();
  const ssize_t sent = send(static_cast<int>(fd), bytes.data(), length, MSG_DONTWAIT | MSG_NOSIGNAL);
  // A broken connection is told by the ordinary write that the caller then tries.
  return Napi::Number::New(env, static_cast<double>(std::max<ssize_t>(sent, 0)));
}

}  // namespace sidestep
