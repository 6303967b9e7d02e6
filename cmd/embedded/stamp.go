package embedded

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// clockSkew is how far the time of a record may be from the broker's. A batch in which one is farther is stamped anew; what is nearer is left, because
// to stamp it is to pack it again.
const clockSkew = 2 * time.Second

// stampOnAppend has the broker heed message.timestamp.type=LogAppendTime, which kfake keeps and does not act on: a record of such a topic has the
// time at which the broker took it, whatever its producer says, or one that is at most clockSkew away. (The attribute by which a producer may ask
// kfake for that is no help: kfake stamps the batch then and leaves the checksum as it was.)
func stampOnAppend(cluster *kfake.Cluster) {
	cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		// A fresh function for the next request: kfake lets one remember the last request of every connection, however large.
		cluster.DropControl()
		stampOnAppend(cluster)
		topics := r.(*kmsg.ProduceRequest).Topics
		for i := range topics {
			t := &topics[i]
			info := cluster.TopicInfo(t.Topic)
			if t.Topic == "" {
				info = cluster.TopicIDInfo(t.TopicID)
			}
			if info == nil {
				continue // kfake refuses it
			}
			if kind := info.Configs["message.timestamp.type"]; kind == nil || *kind != "LogAppendTime" {
				continue
			}
			for j := range t.Partitions {
				t.Partitions[j].Records = stamp(t.Partitions[j].Records, time.Now().UnixMilli())
			}
		}
		return nil, nil, false
	})
}

// Where the parts of a record batch lie (KIP-98). The checksum covers all from the attributes on.
const (
	batchLength     = 8 // of what follows it
	batchCRC        = 17
	batchAttributes = 21
	batchFirstTime  = 27
	batchMaxTime    = 35
	batchRecords    = 61

	codecMask = 7 // of the attributes
)

// stamp returns a record batch with all of its records at the time now, in milliseconds; the batch itself where they are near enough, or where it is
// not whole, which the broker says.
func stamp(batch []byte, now int64) []byte {
	if len(batch) < batchRecords || binary.BigEndian.Uint32(batch[batchCRC:]) != crc32.Checksum(batch[batchAttributes:], castagnoli) {
		return batch
	}
	codec := kgo.CompressionCodecType(batch[batchAttributes+1] & codecMask)
	records, err := unpack.Decompress(batch[batchRecords:], codec)
	if err != nil {
		return batch
	}
	first := int64(binary.BigEndian.Uint64(batch[batchFirstTime:]))
	far := false
	whole := eachRecord(records, func(_ byte, delta int64, _ []byte) {
		off := first + delta - now
		far = far || off > clockSkew.Milliseconds() || off < -clockSkew.Milliseconds()
	})
	if !far || !whole {
		return batch
	}
	stamped := make([]byte, 0, len(records))
	eachRecord(records, func(attributes byte, _ int64, rest []byte) {
		stamped = binary.AppendVarint(stamped, int64(len(rest))+2)
		stamped = append(stamped, attributes, 0) // a difference of nothing
		stamped = append(stamped, rest...)
	})
	if codec != kgo.CodecNone {
		if pack, err := kgo.DefaultCompressor(codecs[codec]); err == nil {
			stamped, codec = pack.Compress(new(bytes.Buffer), stamped)
		}
	}
	out := append(make([]byte, 0, batchRecords+len(stamped)), batch[:batchRecords]...)
	out = append(out, stamped...)
	out[batchAttributes+1] = out[batchAttributes+1]&^codecMask | byte(codec)
	binary.BigEndian.PutUint32(out[batchLength:], uint32(len(out)-batchLength-4))
	binary.BigEndian.PutUint64(out[batchFirstTime:], uint64(now))
	binary.BigEndian.PutUint64(out[batchMaxTime:], uint64(now))
	binary.BigEndian.PutUint32(out[batchCRC:], crc32.Checksum(out[batchAttributes:], castagnoli))
	return out
}

var (
	unpack = kgo.DefaultDecompressor()
	codecs = map[kgo.CompressionCodecType]kgo.CompressionCodec{
		kgo.CodecGzip: kgo.GzipCompression(), kgo.CodecSnappy: kgo.SnappyCompression(), kgo.CodecLz4: kgo.Lz4Compression(), kgo.CodecZstd: kgo.ZstdCompression(),
	}
)

// eachRecord calls f for the records of a batch: the attributes, how much later than the batch's first time it is, and what follows. It
// reports whether they are whole.
func eachRecord(records []byte, f func(attributes byte, delta int64, rest []byte)) bool {
	for len(records) > 0 {
		length, n := binary.Varint(records)
		if n <= 0 || length < 2 || length > int64(len(records)-n) {
			return false
		}
		record := records[n : n+int(length)]
		delta, m := binary.Varint(record[1:])
		if m <= 0 {
			return false
		}
		f(record[0], delta, record[1+m:])
		records = records[n+int(length):]
	}
	return true
}
