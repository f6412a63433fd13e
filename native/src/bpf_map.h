// Map access by descriptor. Keys and values are byte arrays in the layout that src/kernel/generated/layout.ts describes.
#pragma once

#include <napi.h>

#include "owned_fd.h"

namespace sidestep {

/** The shape of the map in `value`, valid while it is open; nullptr with a pending exception if it is no open map. */
const MapShape* MapShapeOf(const Napi::Value& value);

/** mapInfo(fd) -> {type, keySize, valueSize, maxEntries, name, id}; sizes in bytes. */
Napi::Value MapInfo(const Napi::CallbackInfo& info);
/** mapLookup(fd, key) -> value bytes (per-CPU maps: all CPUs' values, each padded to 8) or undefined. */
Napi::Value MapLookup(const Napi::CallbackInfo& info);
/** mapUpdate(fd, key, value, flags) */
void MapUpdate(const Napi::CallbackInfo& info);
/** mapDelete(fd, key) -> whether it was there. */
Napi::Value MapDelete(const Napi::CallbackInfo& info);
/** mapTake(fd, key) -> value bytes, deleting the entry, or undefined. */
Napi::Value MapTake(const Napi::CallbackInfo& info);
/** mapEntries(fd) -> [key, value][], read in batches where the map's type has them. */
Napi::Value MapEntries(const Napi::CallbackInfo& info);
/** mapUpdateBatch(fd, keys, values): concatenated keys and values. */
void MapUpdateBatch(const Napi::CallbackInfo& info);

}  // namespace sidestep
