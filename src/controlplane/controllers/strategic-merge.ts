// Kubernetes' strategic merge for the few kinds that Gateways become: maps are merged, null takes a field away, and lists whose
// elements have names are merged by them; every other list is replaced. Pure; arguments are never changed.

type Json = Readonly<Record<string, unknown>>

/** By the name of the field: what its elements are told apart by, the first of these that they have. */
const mergeKeys: Readonly<Record<string, readonly string[]>> = {
  containers: ['name'], env: ['name'], volumes: ['name'], volumeMounts: ['mountPath'], imagePullSecrets: ['name'], hostAliases: ['ip'],
  // Of a container, and of a Service.
  ports: ['containerPort', 'port'], topologySpreadConstraints: ['topologyKey'],
}

/** `patch` over `base`. Both are plain data of bounded depth. */
export function strategicMerge(base: Json, patch: Json): Json {
  const merged: Record<string, unknown> = { ...base }
  for (const [field, value] of Object.entries(patch)) {
    // A field of that name would be the object's prototype.
    if (field === '__proto__' || field === '$patch') continue
    const before = Object.hasOwn(base, field) ? base[field] : undefined
    if (value === null) delete merged[field]
    else if (isRecord(value)) merged[field] = value['$patch'] === 'replace' ? strategicMerge({}, value) : strategicMerge(isRecord(before) ? before : {}, value)
    else if (Array.isArray(value)) merged[field] = mergeLists(field, Array.isArray(before) ? before : [], value)
    else merged[field] = value
  }
  return merged
}

function mergeLists(field: string, base: readonly unknown[], patch: readonly unknown[]): readonly unknown[] {
  const keys = Object.hasOwn(mergeKeys, field) ? mergeKeys[field] : undefined
  if (patch.some((each) => isRecord(each) && each['$patch'] === 'replace')) return patch.filter((each) => !(isRecord(each) && each['$patch'] === 'replace'))
  if (!keys) return patch
  const merged = [...base]
  for (const element of patch) {
    const key = isRecord(element) ? keys.find((each) => Object.hasOwn(element, each)) : undefined
    if (key === undefined || !isRecord(element)) {
      merged.push(element)
      continue
    }
    const at = merged.findIndex((each) => isRecord(each) && each[key] === element[key])
    const there = merged[at]
    if (element['$patch'] === 'delete') {
      if (at >= 0) merged.splice(at, 1)
    } else if (isRecord(there)) merged[at] = strategicMerge(there, element)
    else merged.push(strategicMerge({}, element))
  }
  return merged
}

export function isRecord(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
