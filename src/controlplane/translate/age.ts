// Which of several objects that claim the same thing counts: the oldest, as in Istio. Files rarely say an object's age; those
// without one come after those with, and then the key decides, so that the answer does not depend on any order of reading.
import { objectKey, type ManifestObject } from '../../model/manifest.ts'

function createdMs(object: ManifestObject): number {
  const { creationTimestamp } = object.metadata
  return creationTimestamp === undefined ? Infinity : Date.parse(creationTimestamp)
}

export function byAge(a: ManifestObject, b: ManifestObject): number {
  const [ageA, ageB] = [createdMs(a), createdMs(b)]
  if (ageA !== ageB) return ageA - ageB
  const [keyA, keyB] = [objectKey(a), objectKey(b)]
  return keyA < keyB ? -1 : keyA > keyB ? 1 : 0
}

/** The one that counts. */
export function oldest<T extends ManifestObject>(objects: Iterable<T>): T | undefined {
  let found: T | undefined
  for (const object of objects) if (!found || byAge(object, found) < 0) found = object
  return found
}
