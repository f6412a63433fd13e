// Drives Gateway API's own conformance suite. What it adds to the suite's own main: a waypoint in each namespace of the mesh tests,
// between what the suite sets up and what it runs, because routes of a service are in force where a waypoint stands before it.
package conformance

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

var pool = flag.String("load-balancers", "", "Addresses for Services of type LoadBalancer, as CIDR, where nobody else gives them any")
var waypoint = flag.String("waypoint", "", "Name of the waypoint that each namespace of the mesh tests gets")

func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	run, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	if options.ReportOutputPath != "" {
		t.Cleanup(func() { writeReport(t, run, options.ReportOutputPath) })
	}
	if *pool != "" {
		prefix, err := netip.ParsePrefix(*pool)
		require.NoError(t, err)
		giveAddresses(t, options.Client, prefix)
	}
	run.Setup(t, tests.ConformanceTests)
	if *waypoint != "" && run.SupportedFeatures.Has(features.SupportMesh) {
		for _, namespace := range []string{suite.MeshNamespace, suite.MeshConsumerNamespace} {
			setUpWaypoint(t, run.Client, namespace, *waypoint)
		}
	}
	require.NoError(t, run.Run(t, tests.ConformanceTests))
}

func setUpWaypoint(t *testing.T, api client.Client, namespace, name string) {
	gateway := &v1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1.GatewaySpec{
			GatewayClassName: "sidestep-waypoint",
			Listeners:        []v1.Listener{{Name: "mesh", Port: 15008, Protocol: "HBONE"}},
		},
	}
	require.NoError(t, client.IgnoreAlreadyExists(api.Create(t.Context(), gateway)))
	err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		if err := api.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, gateway); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		return meta.IsStatusConditionTrue(gateway.Status.Conditions, string(v1.GatewayConditionProgrammed)), nil
	})
	require.NoErrorf(t, err, "the waypoint %s/%s is not programmed: %v", namespace, name, gateway.Status.Conditions)
}

func writeReport(t *testing.T, run *suite.ConformanceTestSuite, path string) {
	report, err := run.Report()
	require.NoError(t, err)
	text, err := yaml.Marshal(report)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o644))
}
