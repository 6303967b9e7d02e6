package embedded

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// A broker that was killed with -9 leaves transactions in its log that have no end. When kfake opens such a log
// it takes them for aborted, in memory only: it writes no marker. So a log may end in records that no committed
// reader is ever shown, and nobody who reads committed up to the high watermark arrives there. Worse, a reader
// goes on to skip the same producer's next transaction, up to the next marker, and after another kill kfake
// itself takes both for one. repairKafka writes the markers.
//
// It knows of kfake's files what follows. data/partitions/<topic>-<partition>/ has segments <base offset>.dat,
// record batches as they travel, one after the other; beside each an index <base offset>.idx, one entry a batch
// in the same order, which says whether the batch is part of a transaction, and is written after it; and
// snapshot.json, written by a clean close and believed for as long as the segments have the sizes that it names.
// session_state.json has the transactions that were open at a clean close, and is gone once it has been read.

const (
	repairLimit = 20 * time.Second // for the requests of a repair

	segmentExt, indexExt = ".dat", ".idx"
	snapshotFile         = "snapshot.json"
	sessionFile          = "session_state.json"

	indexEntrySize = 15
	indexVersion   = 1

	// A record batch's head, and what of it is read.
	batchHead          = 61
	batchLengthEnd     = 12 // the length counts from here
	batchLengthAt      = 8
	batchLeaderEpochAt = 12
	batchAttributesAt  = 21
	batchMaxTimeAt     = 35
	batchProducerAt    = 43
	batchEpochAt       = 51

	attrTransactional = 1 << 4
	attrControl       = 1 << 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// producer is one that has records of a transaction without an end.
type producer struct {
	ID    int64
	Epoch int16
}

// repairKafka ends the transactions in the broker's log that have no end and that no broker remembers as open.
// Where there are any it runs a broker for it, on an address that nobody knows, so that no producer comes between.
func repairKafka(p *process) error {
	torn, err := scanPartitions(filepath.Join(p.dataDir(), "partitions"))
	if err != nil || len(torn) == 0 {
		return err
	}
	// A partition that was not written to since the last clean close keeps that state: the transactions that were
	// open then and that nobody ended since neither have an end nor count as aborted, unless the log is read anew.
	if _, err := os.Stat(filepath.Join(p.dataDir(), sessionFile)); errors.Is(err, os.ErrNotExist) {
		for dir := range torn {
			if err := dropOpenSnapshot(filepath.Join(p.dataDir(), "partitions", dir)); err != nil {
				return err
			}
		}
	}
	cluster, err := openKafka(p, "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), repairLimit)
	defer cancel()
	return abort(ctx, kadm.NewClient(client), torn)
}

// abort ends the transactions of torn, which goes by folder, except those that the broker has as open.
func abort(ctx context.Context, adm *kadm.Client, torn map[string][]producer) error {
	known, err := adm.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	parts := known.Topics.TopicsSet()
	open, err := adm.DescribeProducers(ctx, parts)
	if err != nil {
		return fmt.Errorf("describe producers: %w", err)
	}
	markers := make(map[producer]kadm.TopicsSet)
	for dir, producers := range torn {
		topic, partition, ok := partitionOf(dir)
		if !ok || !parts.Lookup(topic, partition) {
			continue // left over from a topic that was deleted
		}
		for _, who := range producers {
			if _, open := open[topic].Partitions[partition].ActiveProducers[who.ID]; open {
				continue
			}
			topics := markers[who]
			topics.Add(topic, partition)
			markers[who] = topics
			fmt.Fprintf(os.Stderr, "%s partition %d: aborting the transaction that producer %d left when this broker was killed\n", topic, partition, who.ID)
		}
	}
	var all []kadm.TxnMarkers
	for who, topics := range markers {
		all = append(all, kadm.TxnMarkers{ProducerID: who.ID, ProducerEpoch: who.Epoch, Topics: topics})
	}
	if len(all) == 0 {
		return nil
	}
	written, err := adm.WriteTxnMarkers(ctx, all...)
	if err != nil {
		return fmt.Errorf("write transaction markers: %w", err)
	}
	var errs []error
	written.EachPartition(func(r kadm.TxnMarkersPartitionResponse) {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("write a transaction marker to %s partition %d: %w", r.Topic, r.Partition, r.Err))
		}
	})
	return errors.Join(errs...)
}

// partitionOf is what a folder of a partition is named after.
func partitionOf(dir string) (topic string, partition int32, ok bool) {
	cut := strings.LastIndexByte(dir, '-')
	if cut < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(dir[cut+1:], 10, 32)
	if err != nil {
		return "", 0, false
	}
	topic, err = url.PathUnescape(dir[:cut])
	return topic, int32(n), err == nil
}

// dropOpenSnapshot removes the snapshot of a partition if it says that a transaction was open.
func dropOpenSnapshot(dir string) error {
	path := filepath.Join(dir, snapshotFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var snapshot struct {
		HighWatermark    int64 `json:"high_watermark"`
		LastStableOffset int64 `json:"last_stable_offset"`
	}
	if json.Unmarshal(raw, &snapshot) == nil && snapshot.LastStableOffset >= snapshot.HighWatermark {
		return nil
	}
	return os.Remove(path)
}

// scanPartitions scans every partition, and returns by folder those that have transactions without an end.
func scanPartitions(dir string) (map[string][]producer, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	found := make([][]producer, len(entries))
	var group errgroup.Group
	group.SetLimit(8)
	for i, e := range entries {
		group.Go(func() error {
			var err error
			found[i], err = scanPartition(filepath.Join(dir, e.Name()))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("scan the log: %w", err)
	}
	torn := make(map[string][]producer)
	for i, e := range entries {
		if len(found[i]) > 0 {
			torn[e.Name()] = found[i]
		}
	}
	return torn, nil
}

// scanPartition scans a partition's segments for transactions without an end, and mends their indexes.
func scanPartition(dir string) ([]producer, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var bases []int64
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), segmentExt); ok {
			if base, err := strconv.ParseInt(name, 10, 64); err == nil {
				bases = append(bases, base)
			}
		}
	}
	slices.Sort(bases)
	open := make(map[int64]producer)
	for _, base := range bases {
		if err := scanSegment(filepath.Join(dir, strconv.FormatInt(base, 10)), open); err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(maps.Values(open), func(a, b producer) int { return cmp.Compare(a.ID, b.ID) }), nil
}

// scanSegment carries open, the producers with a transaction that has no end yet, over a segment.
func scanSegment(path string, open map[int64]producer) error {
	f, err := os.Open(path + segmentExt)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	index := make([]byte, 0, indexEntrySize*1024)
	r := bufio.NewReaderSize(f, 1<<18)
	for left := info.Size(); left >= batchHead; {
		head, err := r.Peek(batchHead)
		if err != nil {
			return err
		}
		size := batchLengthEnd + int64(binary.BigEndian.Uint32(head[batchLengthAt:]))
		if size < batchHead || size > left {
			break // torn off while it was written; kfake cuts it off
		}
		who := producer{int64(binary.BigEndian.Uint64(head[batchProducerAt:])), int16(binary.BigEndian.Uint16(head[batchEpochAt:]))}
		attrs := binary.BigEndian.Uint16(head[batchAttributesAt:])
		if attrs&attrControl != 0 {
			delete(open, who.ID)
		} else if attrs&attrTransactional != 0 {
			open[who.ID] = who
		}
		index = appendIndexEntry(index, head)
		if err := discard(r, size); err != nil {
			return err
		}
		left -= size
	}
	return mendIndex(path+indexExt, index)
}

func discard(r *bufio.Reader, n int64) error {
	m, err := r.Discard(int(n))
	if err == nil && int64(m) != n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// appendIndexEntry appends a batch's index entry: version, check sum of the rest, leader epoch, the highest time
// so far (which kfake computes anew when it reads the entry) and whether the batch is part of a transaction.
func appendIndexEntry(index, head []byte) []byte {
	entry := [indexEntrySize]byte{0: indexVersion}
	binary.LittleEndian.PutUint32(entry[2:], binary.BigEndian.Uint32(head[batchLeaderEpochAt:]))
	binary.LittleEndian.PutUint64(entry[6:], binary.BigEndian.Uint64(head[batchMaxTimeAt:]))
	if attrs := binary.BigEndian.Uint16(head[batchAttributesAt:]); attrs&attrTransactional != 0 && attrs&attrControl == 0 {
		entry[14] = 1
	}
	entry[1] = byte(crc32.Checksum(entry[2:], castagnoli))
	return append(index, entry[:]...)
}

// mendIndex writes an index anew if it is not one entry a batch, each with the right word on transactions. A
// broker killed between a batch and its entry leaves an index that is one behind, for good: every later entry
// would be taken for the batch before.
func mendIndex(path string, want []byte) error {
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(have) > 0 && have[0] != indexVersion {
		return nil // a kfake that writes them another way
	}
	good := len(have) == len(want)
	for at := indexEntrySize - 1; good && at < len(want); at += indexEntrySize {
		good = have[at] == want[at]
	}
	if good {
		return nil
	}
	// kfake discards what ends in .tmp when it opens the folder.
	if err := os.WriteFile(path+".tmp", want, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
