package processors

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the take-over gauge.
const (
	takeoverDone      = 0
	takeoverRestoring = 1
)

type metrics struct {
	rounds       *prometheus.CounterVec
	roundRecords prometheus.Histogram
	commitTime   prometheus.Histogram
	processed    *prometheus.CounterVec
	unprocessed  *prometheus.CounterVec
	reasons      *prometheus.CounterVec
	forwarded    *prometheus.CounterVec
	late         *prometheus.CounterVec
	dead         *prometheus.CounterVec
	requests     *prometheus.CounterVec
	passed       *prometheus.CounterVec
	sinkWait     *prometheus.HistogramVec
	lookUp       *prometheus.HistogramVec
	retries      *prometheus.CounterVec
	restarts     prometheus.Counter
	panics       prometheus.Counter
	refused      prometheus.Counter
	takeover     *prometheus.GaugeVec
	takeoverTime prometheus.Histogram
	waiting      *prometheus.GaugeVec
	stateKeys    *prometheus.GaugeVec
	lagRecords   *prometheus.GaugeVec
	lagSeconds   *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	const prefix = "counterfoil_process_"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
		registerer.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, labels)
		registerer.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets})
		registerer.MustRegister(h)
		return h
	}
	ofTopic := func(name, help string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"topic"})
		registerer.MustRegister(h)
		return h
	}
	return &metrics{
		sinkWait:     ofTopic("sink_barrier_wait_seconds", "Time from the barrier's question until the sink's committed offsets had passed the topic's high watermarks."),
		lookUp:       ofTopic("look_up_seconds", "Time that ClickHouse took to find what a round's items ask of the topic's records."),
		rounds:       counter("rounds_total", "Rounds by how they ended: committed, aborted (a partition was taken away, the round gave way to a rebalance, or a generation of the group overtook it), unknown (the session was started afresh).", "end"),
		roundRecords: histogram("round_records", "Records judged in a committed round.", prometheus.ExponentialBuckets(1, 4, 8)),
		commitTime:   histogram("commit_seconds", "Time from handing over a round's records to the answer of the commit.", prometheus.ExponentialBuckets(0.001, 2, 14)),
		processed:    counter("processed_total", "Processed outcomes.", "kind"),
		unprocessed:  counter("unprocessed_total", "Unprocessed outcomes.", "kind"),
		reasons:      counter("reasons_total", "Reasons of unprocessed outcomes and dead letters, by code.", "kind", "code"),
		forwarded:    counter("forwarded_total", "Misplaced records passed on to the partition of their key.", "kind"),
		late:         counter("late_replays_total", "Replays that were dropped because their attempt, or a later one, has an outcome.", "kind"),
		dead:         counter("dead_letters_total", "Records that could not be read as items.", "kind"),
		requests:     counter("requests_total", "Requests with an idempotency key by verdict: accepted, repeated (same body), conflict (another body).", "verdict"),
		passed:       counter("request_records_total", "Records of such requests: passed on to where they belong, or dropped with a request that is not the first.", "fate"),
		retries:      counter("retries_total", "Repeated attempts, by what was tried.", "what"),
		restarts:     counter("restarts_total", "Sessions given up and started afresh from what is committed.").WithLabelValues(),
		panics:       counter("panics_total", "Panics while judging; each is an internal_error outcome.").WithLabelValues(),
		refused:      counter("look_ups_refused_total", "Sales whose calls ClickHouse refused to look for, as too much work for one query; each is an internal_error outcome.").WithLabelValues(),
		takeover:     gauge("takeover", "State of an owned partition: 1 while its state is restored, 0 when it is judged.", "topic", "partition"),
		takeoverTime: histogram("takeover_seconds", "Time from the assignment of partitions until their state was restored.", prometheus.ExponentialBuckets(0.005, 2, 14)),
		waiting:      gauge("schema_waiting", "1 while a partition waits for the registry's answer about a schema.", "topic", "partition"),
		stateKeys:    gauge("state_keys", "Keys in the state of an owned partition.", "topic", "partition"),
		lagRecords:   gauge("lag_records", "Offsets (markers count) between the last judged record of an owned partition and its end.", "topic", "partition"),
		lagSeconds:   gauge("lag_seconds", "Age of the last judged record of an owned partition that has more to judge; 0 where it has not.", "topic", "partition"),
	}
}

func (m *metrics) committed(took time.Duration) { m.commitTime.Observe(took.Seconds()) }

// judged counts the outcomes of a partition's committed round.
func (m *metrics) judged(l *lane) {
	name := l.kind.name
	m.processed.WithLabelValues(name).Add(float64(l.tally.processed))
	m.unprocessed.WithLabelValues(name).Add(float64(l.tally.unprocessed))
	m.forwarded.WithLabelValues(name).Add(float64(l.tally.forwarded))
	m.dead.WithLabelValues(name).Add(float64(l.tally.dead))
	m.late.WithLabelValues(name).Add(float64(l.tally.late))
	if l.requests != nil {
		m.passed.WithLabelValues("passed").Add(float64(l.tally.passed))
		m.passed.WithLabelValues("dropped").Add(float64(l.tally.dropped))
	}
	for _, verdict := range l.tally.verdicts {
		m.requests.WithLabelValues(verdict).Inc()
	}
	for _, code := range l.tally.reasons {
		m.reasons.WithLabelValues(name, code).Inc()
	}
	keys := 0
	for _, t := range l.tables() {
		keys += t.size()
	}
	m.stateKeys.WithLabelValues(name, strconv.Itoa(int(l.partition))).Set(float64(keys))
}

func (m *metrics) setTakeover(topic string, partition int32, state float64) {
	m.takeover.WithLabelValues(topic, strconv.Itoa(int(partition))).Set(state)
}

func (m *metrics) setWaiting(at place, waiting bool) {
	value := 0.0
	if waiting {
		value = 1
	}
	m.waiting.WithLabelValues(at.topic, strconv.Itoa(int(at.partition))).Set(value)
}

// setLag takes the distance to the end in offsets and the age of the last judged record.
func (m *metrics) setLag(at place, offsets int64, age time.Duration) {
	number := strconv.Itoa(int(at.partition))
	if offsets <= 0 {
		offsets, age = 0, 0
	}
	m.lagRecords.WithLabelValues(at.topic, number).Set(float64(offsets))
	m.lagSeconds.WithLabelValues(at.topic, number).Set(age.Seconds())
}

// dropPartition removes what is known of a partition that is no longer owned.
func (m *metrics) dropPartition(topic string, partition int32) {
	number := strconv.Itoa(int(partition))
	for _, g := range []*prometheus.GaugeVec{m.takeover, m.waiting, m.stateKeys, m.lagRecords, m.lagSeconds} {
		g.DeleteLabelValues(topic, number)
	}
}

// forget removes what is known of all partitions.
func (m *metrics) forget() {
	for _, g := range []*prometheus.GaugeVec{m.takeover, m.waiting, m.stateKeys, m.lagRecords, m.lagSeconds} {
		g.Reset()
	}
}
