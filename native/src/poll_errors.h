// Asks many sockets at once whether an error waits in them. Node notices a reset only where it reads or writes.
#pragma once

#include <napi.h>

namespace sidestep {

/** pollErrors(fds: Int32Array) -> Int32Array: positions in `fds` of those with a pending error. Never waits. */
Napi::Value PollErrors(const Napi::CallbackInfo& info);

}  // namespace sidestep
