package clickhouse

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Whoever watches that nothing is refused needs the 0 before the first refusal.
func TestCountersOfTablesBeginAtZero(t *testing.T) {
	reg := prometheus.NewRegistry()
	conn := &Conn{cfg: Config{Database: "x"}, shards: [][]int{{0}}}
	_, err := New(sinkConfig(), Deps{Conn: conn, Log: testLog(t), Metrics: reg})
	must(t, err)
	families, err := reg.Gather()
	must(t, err)
	have := map[string]bool{}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "table" && m.GetCounter() != nil && m.GetCounter().GetValue() == 0 {
					have[fmt.Sprintf("%s{table=%s}", f.GetName(), l.GetValue())] = true
				}
			}
		}
	}
	for _, spec := range allTables() {
		for _, name := range []string{"rows_total", "insert_retries_total", "late_inserts_refused_total", "unknown_outcomes_total"} {
			if want := fmt.Sprintf("counterfoil_sink_%s{table=%s}", name, spec.name); !have[want] {
				t.Errorf("%s is not there", want)
			}
		}
	}
}
