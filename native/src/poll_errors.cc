#include "poll_errors.h"

#include <poll.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "errors.h"

namespace sidestep {

Napi::Value PollErrors(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    Napi::TypeError::New(env, "expected an Int32Array of descriptors").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Napi::Int32Array fds = info[0].As<Napi::Int32Array>();
  std::vector<pollfd> entries(fds.ElementLength());
  // Asking for no event, only what is always told: errors and hang-ups. The error stays in the socket for who reads it.
  for (std::size_t i = 0; i < entries.size(); i++) entries[i] = pollfd{fds[i], 0, 0};
  if (poll(entries.data(), entries.size(), 0) < 0) {
    MakeError(env, LastFailure("poll")).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  std::vector<std::int32_t> positions;
  for (std::size_t i = 0; i < entries.size(); i++) {
    if ((entries[i].revents & POLLERR) != 0) positions.push_back(static_cast<std::int32_t>(i));
  }
  Napi::Int32Array found = Napi::Int32Array::New(env, positions.size());
  if (!positions.empty()) std::memcpy(found.Data(), positions.data(), positions.size() * sizeof(std::int32_t));
  return found;
}

}  // namespace sidestep
