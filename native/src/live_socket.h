// What can be asked of and told to connected sockets that Node owns, by descriptor, where Node has no word for it.
#pragma once

#include <napi.h>

namespace sidestep {

/** pollErrors(fds: Int32Array) -> Int32Array: positions in `fds` of those with a pending error. Never waits. */
Napi::Value PollErrors(const Napi::CallbackInfo& info);
/** abortOnClose(fd): closing the socket will reset the connection. */
Napi::Value AbortOnClose(const Napi::CallbackInfo& info);
/** trySend(fd, bytes, length): how many of the first `length` bytes the socket took without waiting; 0 on an error too. */
Napi::Value TrySend(const Napi::CallbackInfo& info);

}  // namespace sidestep
