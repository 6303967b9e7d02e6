package reference

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	waited  *prometheus.HistogramVec
	records *prometheus.CounterVec
	skipped *prometheus.CounterVec
	errors  prometheus.Counter
}

func newMetrics(role string, registerer prometheus.Registerer, t *Tables) *metrics {
	prefix := "counterfoil_" + role + "_reference_"
	m := &metrics{
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    prefix + "barrier_wait_seconds",
			Help:    "Time from the barrier's question until the topic's table had passed its high watermark.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"topic"}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "records_total", Help: "Records read from the topic.",
		}, []string{"topic"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "skipped_total", Help: "Records skipped because they are unreadable or their key does not fit; the sink makes dead letters of them.",
		}, []string{"topic"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "barrier_errors_total", Help: "Failed requests for high watermarks; the barrier waits and asks again.",
		}),
	}
	registerer.MustRegister(m.waited, m.records, m.skipped, m.errors)
	for _, topic := range t.topics {
		registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: prefix + "rows", Help: "Live records in the table.", ConstLabels: prometheus.Labels{"topic": topic},
		}, func() float64 {
			t.mu.RLock()
			defer t.mu.RUnlock()
			return float64(t.tails[topic].table.size())
		}))
	}
	return m
}
