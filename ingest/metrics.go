package ingest

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the role, all named counterfoil_ingest_....
type metrics struct {
	requests       *prometheus.CounterVec   // by door and status; 0: closed without an answer
	requestSeconds *prometheus.HistogramVec // by door
	refusals       *prometheus.CounterVec   // by cause
	batches        *prometheus.CounterVec   // accepted, by door and kind
	items          *prometheus.CounterVec   // accepted, by kind and where they went: judge, refused at the door
	groupBatches   prometheus.Histogram
	groupItems     prometheus.Histogram
	commitSeconds  prometheus.Histogram
	commits        *prometheus.CounterVec // by result
	replySeconds   prometheus.Histogram
	replies        *prometheus.CounterVec // result records, by what became of them
	requestAnswers *prometheus.CounterVec // requests with an idempotency key, by verdict
	expired        prometheus.Counter
	unanswered     *prometheus.CounterVec // by cause: unknownTime, unknownStop
}

func newMetrics(r prometheus.Registerer, s *Service) (*metrics, error) {
	name := func(n string) string { return "counterfoil_ingest_" + n }
	counter := func(n, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(n), Help: help}, labels)
	}
	seconds := prometheus.ExponentialBuckets(0.001, 2, 16)
	sizes := prometheus.ExponentialBuckets(1, 4, 9)
	m := &metrics{
		requests:       counter("requests_total", "HTTP requests by door and status (0: closed without an answer).", "door", "status"),
		requestSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name("request_seconds"), Help: "Time to serve a request.", Buckets: seconds}, []string{"door"}),
		refusals:       counter("refusals_total", "Requests refused, by cause.", "cause"),
		batches:        counter("batches_total", "Batches accepted.", "door", "kind"),
		items:          counter("items_total", "Items accepted: sent to be judged, or unprocessed at the door.", "kind", "to"),
		groupBatches:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: name("group_batches"), Help: "Batches in one transaction.", Buckets: sizes}),
		groupItems:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: name("group_items"), Help: "Items in one transaction.", Buckets: sizes}),
		commitSeconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: name("commit_seconds"), Help: "Time of a transaction, from begin to committed.", Buckets: seconds}),
		commits:        counter("commits_total", "Transactions by result: committed, failed (nothing committed), unknown (then found, or lost).", "result"),
		replySeconds:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: name("reply_seconds"), Help: "Time from the commit of a batch to its last outcome.", Buckets: seconds}),
		replies:        counter("replies_total", "Records of the result partitions read: matched, duplicate, foreign (another copy's, or no longer waited for), unreadable.", "result"),
		requestAnswers: counter("idempotent_requests_total", "Requests with an Idempotency-Key that came in here, by verdict: accepted, repeated (same body), conflict (another body).", "verdict"),
		expired:        prometheus.NewCounter(prometheus.CounterOpts{Name: name("expired_batches_total"), Help: "Batches without all outcomes after BACKLOG_LIMIT, no longer counted as in flight."}),
		unanswered:     counter("unanswered_total", "Requests closed without an answer, because it was not known whether their batch was committed: after too long a time, or at a stop.", "cause"),
	}
	if r == nil {
		return m, nil
	}
	gauge := func(n, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name(n), Help: help}, value)
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.requests, m.requestSeconds, m.refusals, m.batches, m.items, m.groupBatches, m.groupItems, m.commitSeconds, m.commits, m.replySeconds, m.replies, m.requestAnswers, m.expired, m.unanswered,
		gauge("bytes_in_flight", "Bytes of requests at work and of batches not yet judged.", func() float64 { return float64(s.budget.held()) }),
		gauge("waiters", "Requests that wait for outcomes.", func() float64 { w, _ := s.replies.count(); return float64(w) }),
		gauge("pending_batches", "Batches of this copy that are not judged and nobody waits for any more.", func() float64 { _, p := s.replies.count(); return float64(p) }),
		gauge("backlog_age_seconds", "Age of the oldest unjudged item.", func() float64 { return s.backlog.age().Seconds() }),
	} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

// refuse counts a refusal and gives it back.
func (s *Service) refuse(e *Error) *Error {
	cause := e.Cause
	if cause == "" {
		cause = string(e.Code)
	}
	s.metrics.refusals.WithLabelValues(cause).Inc()
	return e
}
