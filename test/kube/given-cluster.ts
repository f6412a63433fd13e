// A cluster of the user's on which the tests shall run instead of one of their own. Asked for by two variables at once, because tests
// install and remove Sidestep there: KUBECONFIG alone stands in many shells.

export interface GivenCluster {
  readonly kubeconfig: string
  /** `registry.example.com/somebody`: has the images `sidestep:one`, `sidestep:two` and `apps:1`, which the user pushed or loaded. */
  readonly images: string
}

export function givenCluster(environment: NodeJS.ProcessEnv = process.env): GivenCluster | undefined {
  const { KUBECONFIG: kubeconfig, SIDESTEP_TEST_IMAGES: images } = environment
  return kubeconfig === undefined || images === undefined ? undefined : { kubeconfig, images }
}
