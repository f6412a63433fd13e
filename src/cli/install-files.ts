// What an installation takes from deploy/: kinds and rules of admission. Other generators write them; here they are read.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { parseAllDocuments } from 'yaml'
import { MeshError } from '../core/errors.ts'
import type { InstallObject } from '../install/common.ts'
import type { InstallFiles } from '../install/objects.ts'

/** `deploy` is that directory. What is not there is empty. */
export function readInstallFiles(deploy: string): InstallFiles {
  const objects = (directory: string): InstallObject[] => filesIn(join(deploy, directory), /\.ya?ml$/).flatMap(objectsOf)
  return { crds: objects('crds'), admission: objects('admission') }
}

/** Says how to combine the files beside it; Gateway API's own directories have one. No object. */
const kustomization = 'kustomization.yaml'

/** All objects in the YAML files of a directory, in the order of their names. */
export function objectsBelow(directory: string): InstallObject[] {
  if (!existsSync(directory)) throw new MeshError('BAD_CONFIG', `there is no directory ${directory}`)
  return filesIn(directory, /\.ya?ml$/).filter((file) => basename(file) !== kustomization).flatMap(objectsOf)
}

function filesIn(directory: string, pattern: RegExp): string[] {
  return existsSync(directory) ? readdirSync(directory).filter((name) => pattern.test(name)).sort().map((name) => join(directory, name)) : []
}

function objectsOf(file: string): InstallObject[] {
  return parseAllDocuments(readFileSync(file, 'utf8')).flatMap((document) => {
    const object = document.toJS() as Partial<InstallObject> | null
    if (object === null) return []
    if (typeof object.apiVersion !== 'string' || typeof object.kind !== 'string' || typeof object.metadata?.name !== 'string') {
      throw new MeshError('BAD_MANIFEST', `${file} has something that is no object of the Kubernetes API`)
    }
    return [object as InstallObject]
  })
}
