#include "bpf_map.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <vector>

#include "arguments.h"
#include "bpf_kind.h"
#include "errors.h"
#include "owned_fd.h"

namespace sidestep {
namespace {

constexpr std::uint32_t kBatchEntries = 1024;

bool IsPerCpu(std::uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
         type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

/** Maps of descriptors, whose values user space sees as 4 bytes. */
bool HoldsDescriptors(std::uint32_t type) {
  return type == BPF_MAP_TYPE_PROG_ARRAY || type == BPF_MAP_TYPE_PERF_EVENT_ARRAY || type == BPF_MAP_TYPE_CGROUP_ARRAY ||
         type == BPF_MAP_TYPE_ARRAY_OF_MAPS || type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

/** Bytes that the kernel copies for one value, as its bpf_map_value_size() counts them. */
std::size_t ValueBytes(const MapShape& map) {
  if (HoldsDescriptors(map.type)) return 4;
  if (!IsPerCpu(map.type)) return map.value_bytes;
  return (static_cast<std::size_t>(map.value_bytes) + 7) / 8 * 8 * static_cast<std::size_t>(libbpf_num_possible_cpus());
}

/** A map's descriptor and shape, and a key whose size was checked: the kernel reads as many bytes as the map says. */
struct Target {
  int fd = -1;
  const MapShape* map = nullptr;
  Bytes key;
};

bool ReadMap(const Napi::CallbackInfo& info, Target* target) {
  target->map = MapShapeOf(info[0]);
  if (target->map == nullptr) return false;
  target->fd = OwnedFd::FdOf(info[0]);
  return true;
}

bool ReadMapAndKey(const Napi::CallbackInfo& info, Target* target) {
  if (!ReadMap(info, target) || !ReadBytes(info[1], "key", &target->key)) return false;
  if (target->key.size() == target->map->key_bytes) return true;
  Throw(info.Env(), Failure{EINVAL, "map key", target->map->name + " takes " + std::to_string(target->map->key_bytes) + " bytes"});
  return false;
}

Napi::Value Copy(Napi::Env env, const std::uint8_t* data, std::size_t size) {
  return Napi::Buffer<std::uint8_t>::Copy(env, data, size);
}

}  // namespace

const MapShape* MapShapeOf(const Napi::Value& value) {
  OwnedFd* owned = OwnedFd::Of(value);
  if (owned == nullptr) return nullptr;
  if (owned->map_shape_) return &*owned->map_shape_;
  bpf_map_info info{};
  std::uint32_t length = sizeof(info);
  if (!IsBpfMap(owned->Get())) {
    Throw(value.Env(), LastFailure("map", "the descriptor is not a map"));
    return nullptr;
  }
  if (bpf_obj_get_info_by_fd(owned->Get(), &info, &length) != 0) {
    Throw(value.Env(), LastFailure("bpf_obj_get_info_by_fd"));
    return nullptr;
  }
  owned->map_shape_ = MapShape{info.type, info.id, info.key_size, info.value_size, info.max_entries, info.name};
  return &*owned->map_shape_;
}

Napi::Value MapInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Target target;
  if (!ReadMap(info, &target)) return env.Undefined();
  Napi::Object result = Napi::Object::New(env);
  result.Set("type", target.map->type);
  result.Set("id", target.map->id);
  result.Set("keySize", target.map->key_bytes);
  result.Set("valueSize", target.map->value_bytes);
  result.Set("maxEntries", target.map->max_entries);
  result.Set("name", target.map->name);
  return result;
}

Napi::Value MapLookup(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Target target;
  if (!ReadMapAndKey(info, &target)) return env.Undefined();
  std::vector<std::uint8_t> value(ValueBytes(*target.map));
  if (bpf_map_lookup_elem(target.fd, target.key.data(), value.data()) == 0) return Copy(env, value.data(), value.size());
  if (errno != ENOENT) Throw(env, LastFailure("bpf_map_lookup_elem", target.map->name));
  return env.Undefined();
}

void MapUpdate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Target target;
  Bytes value;
  std::uint32_t flags = 0;
  if (!ReadMapAndKey(info, &target) || !ReadBytes(info[2], "value", &value)) return;
  if (!info[3].IsUndefined() && !ReadUint32(info[3], "flags", &flags)) return;
  if (value.size() != ValueBytes(*target.map)) {
    Throw(env, Failure{EINVAL, "map value", target.map->name + " takes " + std::to_string(ValueBytes(*target.map)) + " bytes"});
    return;
  }
  if (bpf_map_update_elem(target.fd, target.key.data(), value.data(), flags) != 0)
    Throw(env, LastFailure("bpf_map_update_elem", target.map->name));
}

Napi::Value MapDelete(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Target target;
  if (!ReadMapAndKey(info, &target)) return env.Undefined();
  if (bpf_map_delete_elem(target.fd, target.key.data()) == 0) return Napi::Boolean::New(env, true);
  // Sock maps (by index) answer EINVAL for an absent key; of others it means that they have no deletion.
  const bool is_absent = errno == ENOENT || (errno == EINVAL && target.map->type == BPF_MAP_TYPE_SOCKMAP);
  if (!is_absent) Throw(env, LastFailure("bpf_map_delete_elem", target.map->name));
  return Napi::Boolean::New(env, false);
}

Napi::Value MapTake(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Target target;
  if (!ReadMapAndKey(info, &target)) return env.Undefined();
  std::vector<std::uint8_t> value(ValueBytes(*target.map));
  if (bpf_map_lookup_and_delete_elem(target.fd, target.key.data(), value.data()) == 0) return Copy(env, value.data(), value.size());
  if (errno != ENOENT) Throw(env, LastFailure("bpf_map_lookup_and_delete_elem", target.map->name));
  return env.Undefined();
}

Napi::Value MapEntries(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Target target;
  if (!ReadMap(info, &target)) return env.Undefined();
  const MapShape& map = *target.map;
  const std::size_t key_bytes = map.key_bytes;
  if (key_bytes == 0) {
    Throw(env, Failure{EINVAL, "map entries", map.name + " has no keys"});
    return env.Undefined();
  }
  const std::size_t value_bytes = ValueBytes(map);
  Napi::Array result = Napi::Array::New(env);
  std::uint32_t length = 0;
  const auto append = [&](const std::uint8_t* key, const std::uint8_t* value) {
    Napi::HandleScope scope(env);
    Napi::Array pair = Napi::Array::New(env, 2);
    pair.Set(0U, Copy(env, key, key_bytes));
    pair.Set(1U, Copy(env, value, value_bytes));
    result.Set(length++, pair);
  };

  const std::uint32_t batch_entries = std::min(map.max_entries, kBatchEntries);
  std::vector<std::uint8_t> keys(key_bytes * batch_entries);
  std::vector<std::uint8_t> values(value_bytes * batch_entries);
  std::vector<std::uint8_t> position(std::max<std::size_t>(key_bytes, 4));
  bool first = true;
  while (!IsPerCpu(map.type)) {
    std::uint32_t batch = batch_entries;
    const int outcome =
        bpf_map_lookup_batch(target.fd, first ? nullptr : position.data(), position.data(), keys.data(), values.data(), &batch, nullptr);
    if (outcome != 0 && errno != ENOENT) {
      if (!first) {
        Throw(env, LastFailure("bpf_map_lookup_batch", map.name));
        return env.Undefined();
      }
      break;  // this type has no batches (or a bucket larger than one): walk it below
    }
    for (std::uint32_t i = 0; i < batch; i++) append(keys.data() + i * key_bytes, values.data() + i * value_bytes);
    if (outcome != 0) return result;
    first = false;
  }
  std::vector<std::uint8_t> key(key_bytes);
  std::vector<std::uint8_t> next(key_bytes);
  std::vector<std::uint8_t> value(value_bytes);
  // Bounded: an entry deleted under way restarts the kernel's walk.
  for (std::uint64_t steps = 0; steps < std::uint64_t{map.max_entries} * 2; steps++) {
    if (bpf_map_get_next_key(target.fd, steps == 0 ? nullptr : key.data(), next.data()) != 0) {
      if (errno == ENOENT) break;
      Throw(env, LastFailure("bpf_map_get_next_key", map.name));
      return env.Undefined();
    }
    key = next;
    if (bpf_map_lookup_elem(target.fd, key.data(), value.data()) == 0) append(key.data(), value.data());
  }
  return result;
}

void MapUpdateBatch(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Target target;
  Bytes keys;
  Bytes values;
  if (!ReadMap(info, &target) || !ReadBytes(info[1], "keys", &keys) || !ReadBytes(info[2], "values", &values)) return;
  const std::size_t key_bytes = target.map->key_bytes;
  // A map without keys (a ring buffer) has no batches either.
  if (key_bytes == 0 || keys.size() % key_bytes != 0 || values.size() != keys.size() / key_bytes * ValueBytes(*target.map)) {
    Throw(env, Failure{EINVAL, "map batch", "keys and values are not as many of this map's"});
    return;
  }
  auto count = static_cast<std::uint32_t>(keys.size() / key_bytes);
  if (count > 0 && bpf_map_update_batch(target.fd, keys.data(), values.data(), &count, nullptr) != 0)
    Throw(env, LastFailure("bpf_map_update_batch", target.map->name));
}

}  // namespace sidestep
