// Asks the kernel what it can do, one small question at a time: does it take this program, this map, this socket option.
// Nothing is attached, nothing is left behind, and no answer depends on the kernel's version number. Every fd is opened
// and closed inside one function.
#pragma once

#include <napi.h>

namespace sidestep {

/** probeKernel() -> Promise of {question: errno}, 0 meaning yes; questions are like `program/connect4`, `map/sockhash`. */
Napi::Value ProbeKernel(const Napi::CallbackInfo& info);
/** cgroupPrograms(path) -> [{hook, id, name}]: what anybody attached to exactly that cgroup, on the hooks we use too. */
Napi::Value CgroupPrograms(const Napi::CallbackInfo& info);

}  // namespace sidestep
