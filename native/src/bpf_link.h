// Attaching programs through bpf_link, pinning, and replacing a program atomically. Every link leaves as OwnedFd; a
// pinned one outlives the process.
#pragma once

#include <napi.h>

#include <cstdint>

namespace sidestep {

/** As far as enum bpf_attach_type of older headers can hold; the kernel judges what is below. */
constexpr std::uint32_t kMaxAttachType = 63;

/** linkCreate(program: OwnedFd, target: OwnedFd | ifindex, attachType: number) -> OwnedFd */
Napi::Value LinkCreate(const Napi::CallbackInfo& info);
/** linkUpdate(link, program): atomic replacement. */
void LinkUpdate(const Napi::CallbackInfo& info);
/** linkDetach(link): the hook is gone even while the link is pinned. */
void LinkDetach(const Napi::CallbackInfo& info);
/** linkInfo(link) -> {id, programId, type} */
Napi::Value LinkInfo(const Napi::CallbackInfo& info);
/** pin(fd, path) */
void Pin(const Napi::CallbackInfo& info);
/** getPinned(path) -> OwnedFd or undefined where there is none. */
Napi::Value GetPinned(const Napi::CallbackInfo& info);
/** programTestRun(program, data?: bytes, context?: bytes) -> {result, context}: BPF_PROG_TEST_RUN, once. */
Napi::Value ProgramTestRun(const Napi::CallbackInfo& info);

}  // namespace sidestep
