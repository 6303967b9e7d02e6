package main

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/schemas"
)

// A role refuses to start where a group's offsets are gone, where a topic was made anew, and where migrate has not been; what it says tells
// what to do.
func TestRolesRefusePositionsThatTheyCannotTrust(t *testing.T) {
	c := newClinic(t)
	refused := func(name, says string) {
		t.Helper()
		for _, role := range []string{"process", "sink", "ingest"} {
			c.environ = append(c.environ, "OPS_ADDR=127.0.0.1:0", "HTTP_ADDR=127.0.0.1:0")
			code, _, errs := c.call(t, "", role)
			if code == 0 || !strings.Contains(errs, says) {
				t.Errorf("%s: %s ended with %d, want an error with %q: %s", name, role, code, says, errs)
			}
			if t.Failed() {
				return // each role that goes on takes its time
			}
		}
	}
	gone := kadm.TopicsSet{}
	gone.Add(schemas.KindSales, 0)
	if _, err := c.adm.DeleteOffsets(t.Context(), schemas.GroupMatching, gone); err != nil {
		t.Fatal(err)
	}
	refused("a lost offset", "group counterfoil-matching lost its offset of topic sales partition 0")
	c.commitAt(schemas.GroupMatching, schemas.KindSales, 0, 0)(t)
	if _, err := c.adm.DeleteTopics(t.Context(), schemas.KindTransactions); err != nil {
		t.Fatal(err)
	}
	refused("a missing topic", "topic transactions does not exist")
	c.recreate(t, schemas.KindTransactions, schemas.GroupValidation)
	refused("a topic that was made anew", "Kafka and ClickHouse do not belong together")
}
