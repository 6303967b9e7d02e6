package clickhouse

import (
	"testing"
)

func TestEveryRowOnce(t *testing.T) {
	r := newRig(t)
	s := r.start(nil)
	r.inTransaction(true, r.ownerships(0, 1000)...)
	r.inTransaction(false, r.ownerships(5000, 5010)...)
	r.inTransaction(true, r.ownerships(1000, 2000)...)
	r.wait("2000", "SELECT count() FROM {db}.ownership")
	must(t, s.stop())
	if got := r.query("SELECT concat(toString(count()), ' ', toString(uniqExact(partition, offset)), ' ', toString(max(version))) FROM {db}.ownership"); got != "2000 2000 1999" {
		t.Errorf("rows, positions, highest version: %s", got)
	}
	if got := r.query("SELECT count() FROM {db}.ownership_current WHERE tenant = 'acme' AND sku_key = 'app-01'"); got != "2000" {
		t.Errorf("ownership_current has %s rows", got)
	}
}
