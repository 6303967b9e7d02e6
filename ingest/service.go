package ingest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Service is the ingest role.
type Service struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	mux      *http.ServeMux
	listener net.Listener
	metrics  *metrics
	tokens   *Tokens
	rates    rates
	budget   *budget
	replies  replies
	backlog  backlog
	draining atomic.Bool
}

// New checks the configuration, binds the HTTP address and wires the parts; it does not talk to Kafka yet. Adapters register on
// [Service.Mux] before Run.
func New(cfg Config, deps Deps) (*Service, error) { return nil, errors.New("not here yet") }

// Run serves until ctx is done: then it accepts no more, lets what is at work finish, and returns nil. Any other return is fatal.
func (s *Service) Run(ctx context.Context) error { return nil }

// Ready is nil when a posted item would be accepted and its outcome found.
func (s *Service) Ready() error { return nil }

// Submit publishes a batch and waits for its outcomes, for no longer than the configured time; what is missing then is pending in the receipt.
// An error is always an *[Error] and means that nothing was accepted. An accepted batch never ends in an error.
//
// In one case there is no return: where the service stops before it is known whether Kafka committed the batch, Submit panics with
// http.ErrAbortHandler. Any answer would be a guess, so the connection is closed without one.
func (s *Service) Submit(ctx context.Context, b *Batch) (*Receipt, error) { return nil, nil }

// WaitForSink waits until ClickHouse has everything that was acknowledged in the given topics before the call, so that what is read then is
// no older. The error is an *[Error] with CodeBusy when that takes longer than the configured time.
func (s *Service) WaitForSink(ctx context.Context, topics ...string) error { return nil }

func (s *Service) getBatches(w http.ResponseWriter, r *http.Request)     {}
func (s *Service) getBatch(w http.ResponseWriter, r *http.Request)       {}
func (s *Service) getProcessed(w http.ResponseWriter, r *http.Request)   {}
func (s *Service) getUnprocessed(w http.ResponseWriter, r *http.Request) {}

type replies struct{}

func (*replies) count() (int, int) { return 0, 0 }

type backlog struct{}

func (*backlog) age() time.Duration { return 0 }
