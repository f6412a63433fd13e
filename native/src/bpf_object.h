// Loading one compiled BPF object file with libbpf. Owns nothing after loading: maps and programs leave as OwnedFd, the
// libbpf object is freed at once.
#pragma once

#include <napi.h>

namespace sidestep {

/** loadObject(path, {mapName: OwnedFd, ...}, verifierLogPath) -> {maps: {name: OwnedFd}, programs: {name: OwnedFd}} */
Napi::Value LoadObject(const Napi::CallbackInfo& info);

}  // namespace sidestep
