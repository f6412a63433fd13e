// Everything that lives once per JavaScript environment (main thread or worker). Members are destroyed in reverse order:
// the threads stop first, then the references into JavaScript go.
#pragma once

#include <napi.h>

#include <memory>

#include "netns_thread.h"
#include "poller.h"

namespace sidestep {

struct AddonData {
  Napi::FunctionReference error_factory;
  Napi::FunctionReference owned_fd_constructor;
  std::unique_ptr<NetnsThread> netns_thread;
  std::shared_ptr<Poller> poller;
};

}  // namespace sidestep
