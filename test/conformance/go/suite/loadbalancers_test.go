package conformance

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// giveAddresses does what a cloud provider does where the cluster has none: each Service of type LoadBalancer gets an address of the
// pool, which the cluster's kube-proxy then serves. Addresses are used in turn, so that nobody meets connections to who had one before.
func giveAddresses(t *testing.T, api client.Client, pool netip.Prefix) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		next := pool.Addr()
		for ctx.Err() == nil {
			next = giveEach(ctx, t, api, pool, next)
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { stop(); <-done })
}

func giveEach(ctx context.Context, t *testing.T, api client.Client, pool netip.Prefix, next netip.Addr) netip.Addr {
	var services corev1.ServiceList
	if err := api.List(ctx, &services); err != nil {
		if ctx.Err() == nil {
			t.Logf("load balancers: %v", err)
		}
		return next
	}
	var taken []string
	for _, service := range services.Items {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			taken = append(taken, ingress.IP)
		}
	}
	for _, service := range services.Items {
		if service.Spec.Type != corev1.ServiceTypeLoadBalancer || len(service.Status.LoadBalancer.Ingress) > 0 || service.DeletionTimestamp != nil {
			continue
		}
		for tries := 0; tries == 0 || slices.Contains(taken, next.String()); tries++ {
			if next = next.Next(); !pool.Contains(next) {
				next = pool.Addr().Next()
			}
			if tries > 1024 {
				t.Log("load balancers: no address is free")
				return next
			}
		}
		taken = append(taken, next.String())
		changed := service.DeepCopy()
		changed.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: next.String()}}
		if err := api.Status().Patch(ctx, changed, client.MergeFrom(&service)); client.IgnoreNotFound(err) != nil && ctx.Err() == nil {
			t.Logf("load balancers: %s/%s: %v", service.Namespace, service.Name, err)
		}
	}
	return next
}
