package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// header reads the committed batch header at an offset of the topic batches. nil: there is none, because the transaction that wrote there
// was aborted, the offset is one of a marker, or nothing is there yet. While the transaction at the offset or one before it is open, it waits.
func (s *Service) header(ctx context.Context, offset int64) (*schemas.BatchHeader, error) {
	rt := s.route.Load()
	if rt == nil {
		return nil, errors.New("not connected")
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TxnTimeout+5*time.Second)
	defer cancel()
	ends, err := rt.admin.ListEndOffsets(ctx, schemas.Batches)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end of %s: %w", schemas.Batches, err)
	}
	end, ok := ends.Lookup(schemas.Batches, 0)
	if !ok || end.Err != nil {
		return nil, fmt.Errorf("end of %s: %w", schemas.Batches, end.Err)
	}
	if offset < 0 || offset >= end.Offset {
		return nil, nil
	}
	client, err := kgo.NewClient(append(slices.Concat(s.deps.Kafka, schemas.ConsumeCommitted()), // an aborted header is told by the marker that follows it
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.Batches: {0: kgo.NewOffset().At(offset)}}),
		kgo.FetchMaxBytes(1<<20),
	)...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			if errors.Is(err, kerr.OffsetOutOfRange) { // deleted by a retention that an operator set
				return nil, nil
			}
			return nil, fmt.Errorf("read %s at %d: %w", schemas.Batches, offset, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if r.Offset < offset {
				continue
			}
			if r.Offset > offset || r.Attrs.IsControl() {
				return nil, nil
			}
			return s.decodeHeader(ctx, r.Value)
		}
	}
}

// decodeHeader waits for the schema, if that is one that another version wrote.
func (s *Service) decodeHeader(ctx context.Context, value []byte) (*schemas.BatchHeader, error) {
	for {
		h := new(schemas.BatchHeader)
		err := s.headers.Decode(value, h)
		if !errors.Is(err, schemas.ErrSchemaPending) {
			return h, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
