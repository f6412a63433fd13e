#include "bpf_map.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <cstdint>
#include <vector>

#include "errors.h"
#include "owned_fd.h"

namespace sidestep {
namespace {

constexpr std::uint32_t kBatchEntries = 1024;

bool ReadInfo(Napi::Env env, int fd, bpf_map_info* out) {
  std::uint32_t length = sizeof(*out);
  *out = {};
  if (bpf_obj_get_info_by_fd(fd, out, &length) == 0) return true;
  MakeError(env, LastFailure("bpf_obj_get_info_by_fd")).ThrowAsJavaScriptException();
  return false;
}

bool IsPerCpu(std::uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

/** Bytes that user space sees of one value. */
std::size_t ValueBytes(const bpf_map_info& map) {
  if (!IsPerCpu(map.type)) return map.value_size;
  return static_cast<std::size_t>((map.value_size + 7) / 8 * 8) * static_cast<std::size_t>(libbpf_num_possible_cpus());
}

/** Opens (fd, bytes, bytes?) arguments and checks the key's size, so that a wrong caller cannot read past a buffer. */
bool Arguments(const Napi::CallbackInfo& info, int* fd, bpf_map_info* map, Napi::Uint8Array* key) {
  Napi::Env env = info.Env();
  *fd = OwnedFd::FdOf(info[0]);
  if (*fd < 0 || !ReadInfo(env, *fd, map)) return false;
  if (key == nullptr) return true;
  *key = info[1].As<Napi::Uint8Array>();
  if (key->ByteLength() == map->key_size) return true;
  MakeError(env, Failure{EINVAL, "map key", "expected " + std::to_string(map->key_size) + " bytes"}).ThrowAsJavaScriptException();
  return false;
}

Napi::Value Bytes(Napi::Env env, const std::uint8_t* data, std::size_t size) {
  return Napi::Buffer<std::uint8_t>::Copy(env, data, size);
}

}  // namespace

Napi::Value MapInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = -1;
  bpf_map_info map{};
  if (!Arguments(info, &fd, &map, nullptr)) return env.Undefined();
  Napi::Object result = Napi::Object::New(env);
  result.Set("type", map.type);
  result.Set("id", map.id);
  result.Set("keySize", map.key_size);
  result.Set("valueSize", map.value_size);
  result.Set("maxEntries", map.max_entries);
  result.Set("name", static_cast<const char*>(map.name));
  return result;
}

Napi::Value MapLookup(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = -1;
  bpf_map_info map{};
  Napi::Uint8Array key;
  if (!Arguments(info, &fd, &map, &key)) return env.Undefined();
  std::vector<std::uint8_t> value(ValueBytes(map));
  if (bpf_map_lookup_elem(fd, key.Data(), value.data()) == 0) return Bytes(env, value.data(), value.size());
  if (errno != ENOENT) MakeError(env, LastFailure("bpf_map_lookup_elem", map.name)).ThrowAsJavaScriptException();
  return env.Undefined();
}

void MapUpdate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = -1;
  bpf_map_info map{};
  Napi::Uint8Array key;
  if (!Arguments(info, &fd, &map, &key)) return;
  Napi::Uint8Array value = info[2].As<Napi::Uint8Array>();
  if (value.ByteLength() != ValueBytes(map)) {
    MakeError(env, Failure{EINVAL, "map value", "expected " + std::to_string(ValueBytes(map)) + " bytes"}).ThrowAsJavaScriptException();
    return;
  }
  const std::uint64_t flags = info[3].IsNumber() ? info[3].As<Napi::Number>().Uint32Value() : 0;
  if (bpf_map_update_elem(fd, key.Data(), value.Data(), flags) != 0)
    MakeError(env, LastFailure("bpf_map_update_elem", map.name)).ThrowAsJavaScriptException();
}

Napi::Value MapDelete(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = -1;
  bpf_map_info map{};
  Napi::Uint8Array key;
  if (!Arguments(info, &fd, &map, &key)) return env.Undefined();
  if (bpf_map_delete_elem(fd, key.Data()) == 0) return Napi::Boolean::New(env, true);
  // Sock maps answer EINVAL for an absent key.
  if (errno != ENOENT && errno != EINVAL) MakeError(env, LastFailure("bpf_map_delete_elem", map.name)).ThrowAsJavaScriptException();
  return Napi::Boolean::New(env, false);
}

Napi::Value MapTake(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = -1;
  bpf_map_info map{};
  Napi::Uint8Array key;
  if (!Arguments(info, &fd, &map, &key)) return env.Undefined();
  std::vector<std::uint8_t> value(ValueBytes(map));
  if (bpf_map_lookup_and_delete_elem(fd, key.Data(), value.data()) == 0) return Bytes(env, value.data(), value.size());
  if (errno != ENOENT) MakeError(env, LastFailure("bpf_map_lookup_and_delete_elem", map.name)).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value MapEntries(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = -1;
  bpf_map_info map{};
  if (!Arguments(info, &fd, &map, nullptr)) return env.Undefined();
  const std::size_t value_bytes = ValueBytes(map);
  Napi::Array result = Napi::Array::New(env);
  std::uint32_t length = 0;
  const auto append = [&](const std::uint8_t* key, const std::uint8_t* value) {
    Napi::Array pair = Napi::Array::New(env, 2);
    pair.Set(0U, Bytes(env, key, map.key_size));
    pair.Set(1U, Bytes(env, value, value_bytes));
    result.Set(length++, pair);
  };

  std::vector<std::uint8_t> keys(static_cast<std::size_t>(map.key_size) * kBatchEntries);
  std::vector<std::uint8_t> values(value_bytes * kBatchEntries);
  std::vector<std::uint8_t> position(std::max<std::size_t>(map.key_size, 4));
  bool first = true;
  while (!IsPerCpu(map.type)) {
    std::uint32_t batch = kBatchEntries;
    const int outcome = bpf_map_lookup_batch(fd, first ? nullptr : position.data(), position.data(), keys.data(), values.data(), &batch, nullptr);
    if (outcome != 0 && errno != ENOENT) {
      if (!first) {
        MakeError(env, LastFailure("bpf_map_lookup_batch", map.name)).ThrowAsJavaScriptException();
        return env.Undefined();
      }
      break;  // this type has no batches (or a bucket larger than one): walk it below
    }
    for (std::uint32_t i = 0; i < batch; i++) append(keys.data() + i * map.key_size, values.data() + i * value_bytes);
    if (outcome != 0) return result;
    first = false;
  }
  std::vector<std::uint8_t> key(map.key_size);
  std::vector<std::uint8_t> next(map.key_size);
  std::vector<std::uint8_t> value(value_bytes);
  // Bounded: an entry deleted under way restarts the kernel's walk.
  for (std::uint32_t steps = 0; steps < map.max_entries * 2; steps++) {
    if (bpf_map_get_next_key(fd, steps == 0 ? nullptr : key.data(), next.data()) != 0) break;
    key = next;
    if (bpf_map_lookup_elem(fd, key.data(), value.data()) == 0) append(key.data(), value.data());
  }
  return result;
}

void MapUpdateBatch(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = -1;
  bpf_map_info map{};
  if (!Arguments(info, &fd, &map, nullptr)) return;
  Napi::Uint8Array keys = info[1].As<Napi::Uint8Array>();
  Napi::Uint8Array values = info[2].As<Napi::Uint8Array>();
  std::uint32_t count = static_cast<std::uint32_t>(keys.ByteLength() / map.key_size);
  if (keys.ByteLength() % map.key_size != 0 || values.ByteLength() != count * ValueBytes(map)) {
    MakeError(env, Failure{EINVAL, "map batch", "keys and values differ in count"}).ThrowAsJavaScriptException();
    return;
  }
  if (count > 0 && bpf_map_update_batch(fd, keys.Data(), values.Data(), &count, nullptr) != 0)
    MakeError(env, LastFailure("bpf_map_update_batch", map.name)).ThrowAsJavaScriptException();
}

}  // namespace sidestep
