// The addon's surface; native/native.d.ts describes it to TypeScript. Arguments are validated there; here they are only
// re-checked where a wrong one could read past a buffer.
#include <fcntl.h>
#include <napi.h>

#include "addon_data.h"
#include "arguments.h"
#include "bpf_link.h"
#include "bpf_map.h"
#include "bpf_object.h"
#include "errors.h"
#include "live_socket.h"
#include "netns_jobs.h"
#include "owned_fd.h"
#include "probe.h"
#include "ring_buffer.h"
#include "socket_jobs.h"
#include "unix_socket.h"

namespace sidestep {
namespace {

void Initialise(const Napi::CallbackInfo& info) {
  if (info[0].IsFunction()) {
    SetErrorFactory(info.Env(), info[0].As<Napi::Function>());
  } else {
    ThrowExpected(info.Env(), "createError", "a function");
  }
}

/** openPath(path) -> OwnedFd */
Napi::Value OpenPath(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!ReadString(info[0], "path", &path)) return env.Undefined();
  // Opening a FIFO would otherwise wait for its writer.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (fd.IsOpen()) return OwnedFd::New(env, std::move(fd));
  Throw(env, LastFailure("open", path));
  return env.Undefined();
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new AddonData());
  OwnedFd::Init(env, exports);
  RingBuffer::Init(env, exports);
  UnixSocket::Init(env, exports);
  const auto add = [&](const char* name, auto function) { exports.Set(name, Napi::Function::New(env, function, name)); };
  add("initialise", Initialise);
  add("openPath", OpenPath);
  add("loadObject", LoadObject);
  add("mapInfo", MapInfo);
  add("mapLookup", MapLookup);
  add("mapUpdate", MapUpdate);
  add("mapDelete", MapDelete);
  add("mapTake", MapTake);
  add("mapEntries", MapEntries);
  add("mapUpdateBatch", MapUpdateBatch);
  add("linkCreate", LinkCreate);
  add("linkUpdate", LinkUpdate);
  add("linkDetach", LinkDetach);
  add("linkInfo", LinkInfo);
  add("pin", Pin);
  add("getPinned", GetPinned);
  add("programTestRun", ProgramTestRun);
  add("connectTcp", ConnectTcp);
  add("makeTcpSockets", MakeTcpSockets);
  add("connectMade", ConnectMade);
  add("awaitConnect", AwaitConnect);
  add("listenTcp", ListenTcp);
  add("bindUdp", BindUdp);
  add("tcpInfo", TcpInfo);
  add("tcpInfoInto", TcpInfoInto);
  add("pollErrors", PollErrors);
  add("abortOnClose", AbortOnClose);
  add("trySend", TrySend);
  add("netnsInfo", NetnsInfo);
  add("netnsLinks", NetnsLinks);
  add("netnsAddresses", NetnsAddresses);
  add("setReturnPath", SetReturnPath);
  add("linkCreateIn", LinkCreateIn);
  add("listSockets", ListSockets);
  add("destroySocket", DestroySocket);
  add("unixConnect", UnixConnect);
  add("unixListen", UnixListen);
  add("duplicate", Duplicate);
  add("probeKernel", ProbeKernel);
  add("cgroupPrograms", CgroupPrograms);
  return exports;
}

}  // namespace
}  // namespace sidestep

static Napi::Object InitModule(Napi::Env env, Napi::Object exports) { return sidestep::Init(env, exports); }

NODE_API_MODULE(sidestep, InitModule)
