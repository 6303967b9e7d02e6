package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
)

// lookEvery is how often a look-up asks again while a transaction at its offset is open.
const lookEvery = 50 * time.Millisecond

// recordAt reads the committed record at an offset of a partition, where batches have their headers, as it lies there. nil: there is none,
// because the transaction that wrote there was aborted, the offset is one of a marker, or nothing is there yet. While the transaction at the
// offset or one before it is open, it waits.
//
// It fetches by itself, through the client that all look-ups share: a consumer knows one position in a partition, and many may look at once.
func (s *Service) recordAt(ctx context.Context, topic string, partition int32, offset int64) (*kgo.Record, error) {
	rt := s.route.Load()
	if rt == nil {
		return nil, errors.New("not connected")
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TxnTimeout+5*time.Second)
	defer cancel()
	// Only this answer says for certain where the log ends: in a fetch, a leader that has just begun may give an older end.
	ends, err := rt.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end of %s: %w", topic, err)
	}
	end, ok := ends.Lookup(topic, partition)
	if !ok {
		return nil, fmt.Errorf("end of %s/%d: not in the answer", topic, partition)
	}
	if offset < 0 || offset >= end.Offset {
		return nil, nil
	}
	for {
		records, next, err := rt.fetch(ctx, topic, partition, offset)
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange): // deleted by a retention that an operator set
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("read %s/%d at %d: %w", topic, partition, offset, err)
		case len(records) > 0 && records[0].Offset == offset && !records[0].Attrs.IsControl():
			return records[0], nil
		case next > offset: // a marker, or aborted
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("a transaction at %d of %s/%d or before is still open: %w", offset, topic, partition, ctx.Err())
		case <-time.After(lookEvery):
		}
	}
}

// fetch reads what is decided of a partition from an offset on, markers included, and says where to read on. It does not wait.
func (rt *routing) fetch(ctx context.Context, topic string, partition int32, offset int64) (records []*kgo.Record, next int64, err error) {
	metadata, err := rt.admin.Metadata(ctx, topic)
	if err != nil {
		return nil, 0, err
	}
	detail := metadata.Topics[topic]
	place := detail.Partitions[partition]
	if err := errors.Join(detail.Err, place.Err); err != nil {
		return nil, 0, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = 0, 0, 1<<20, 1 // read committed
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, detail.ID
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.FetchOffset, p.PartitionMaxBytes = partition, place.LeaderEpoch, offset, 1<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	answer, err := rt.client.Broker(int(place.Leader)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	response, ok := answer.(*kmsg.FetchResponse)
	if !ok {
		return nil, 0, fmt.Errorf("the answer to a fetch is %T", answer)
	}
	if err := kerr.ErrorForCode(response.ErrorCode); err != nil {
		return nil, 0, err
	}
	if len(response.Topics) != 1 || len(response.Topics[0].Partitions) != 1 {
		return nil, 0, errors.New("the answer to a fetch is not about its partition")
	}
	fetched, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: true, Offset: offset, IsolationLevel: kgo.ReadCommitted(), Topic: topic, Partition: partition,
	}, &response.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	return fetched.Records, next, fetched.Err
}

// decodeHeader waits for the schema, if that is one that another version wrote.
func (s *Service) decodeHeader(ctx context.Context, value []byte) (*schemas.BatchHeader, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		h := new(schemas.BatchHeader)
		err := s.headers.Decode(value, h)
		if !errors.Is(err, schemas.ErrSchemaPending) {
			return h, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lookEvery):
		}
	}
}
