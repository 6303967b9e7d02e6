package clickhouse

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rows, retries, late, unknown        *prometheus.CounterVec
	deadLetters                         *prometheus.CounterVec
	flush, insert                       *prometheus.HistogramVec
	commit                              prometheus.Histogram
	renewals, commitsRefused, takeOvers prometheus.Counter
	expulsions, clockBackwards          prometheus.Counter
	lagRecords, lagSeconds              *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	const prefix = "counterfoil_sink_"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, []string{"topic", "partition"})
	}
	seconds := prometheus.ExponentialBuckets(0.001, 2, 15)
	m := &metrics{
		rows:           counter("rows_total", "Rows inserted.", "table"),
		retries:        counter("insert_retries_total", "Inserts tried again because the table refused them.", "table"),
		late:           counter("late_inserts_refused_total", "Inserts that came after their lease and were refused by ClickHouse; more than a few say that the lease is too short.", "table"),
		unknown:        counter("unknown_outcomes_total", "Inserts whose answer did not arrive and whose table was asked.", "table"),
		deadLetters:    counter("dead_letters_total", "Records that could not be read and went to dead_letters.", "topic", "code"),
		flush:          prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "flush_rows", Help: "Rows of an insert.", Buckets: prometheus.ExponentialBuckets(1, 4, 10)}, []string{"table"}),
		insert:         prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "insert_seconds", Help: "Time of an insert.", Buckets: seconds}, []string{"table"}),
		commit:         prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "commit_seconds", Help: "Time of a commit of offsets, the look at ClickHouse's clock included.", Buckets: seconds}),
		renewals:       single("lease_renewals_total", "Commits that Kafka took, each of which renews the lease."),
		commitsRefused: single("commits_refused_total", "Commits that failed; they are tried again."),
		expulsions:     single("expulsions_total", "Times that the group expelled this copy because it was held up for longer than the session timeout."),
		takeOvers:      single("take_overs_total", "Partitions taken over."),
		clockBackwards: single("clock_backwards_total", "Times that ClickHouse's clock was behind what it had said before, so that no lease was taken."),
		lagRecords:     gauge("lag_records", "Offsets between what is in ClickHouse and the topic's end, markers and gaps included."),
		lagSeconds:     gauge("lag_seconds", "Age of the newest record that was read, while ClickHouse lacks some; 0 otherwise."),
	}
	if r != nil {
		r.MustRegister(m.rows, m.retries, m.late, m.unknown, m.deadLetters, m.flush, m.insert, m.commit, m.renewals, m.commitsRefused,
			m.takeOvers, m.expulsions, m.clockBackwards, m.lagRecords, m.lagSeconds)
	}
	return m
}

// table makes a table's counters visible at 0: what must stay 0 is watched from the start, and a first increment shows in a rate.
func (m *metrics) table(name string) {
	for _, c := range []*prometheus.CounterVec{m.rows, m.retries, m.late, m.unknown} {
		c.WithLabelValues(name)
	}
}

func (m *metrics) inserted(table string, rows int, took time.Duration) {
	m.rows.WithLabelValues(table).Add(float64(rows))
	m.flush.WithLabelValues(table).Observe(float64(rows))
	m.insert.WithLabelValues(table).Observe(took.Seconds())
}

func (m *metrics) forget(tp topicPartition) {
	m.lagRecords.DeleteLabelValues(tp.topic, strconv.Itoa(int(tp.partition)))
	m.lagSeconds.DeleteLabelValues(tp.topic, strconv.Itoa(int(tp.partition)))
}

// lag sets the gauges of all active partitions.
func (s *Sink) lag() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tp, p := range s.parts {
		if !p.active {
			continue
		}
		records, seconds := max(p.end-p.committed, 0), 0.0
		if records > 0 && !p.stamp.IsZero() {
			seconds = max(time.Since(p.stamp).Seconds(), 0)
		}
		s.met.lagRecords.WithLabelValues(tp.topic, strconv.Itoa(int(tp.partition))).Set(float64(records))
		s.met.lagSeconds.WithLabelValues(tp.topic, strconv.Itoa(int(tp.partition))).Set(seconds)
	}
}
