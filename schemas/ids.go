package schemas

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/text/cases"
)

// NewBatchKey returns 128 random bits as 32 hex digits.
func NewBatchKey() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ItemID is the identity of an item that came in a batch: a hash of (tenant, batch key, index), 32 lower-case hex digits.
func ItemID(tenant, batch string, index int32) string {
	buf := make([]byte, 0, 96)
	buf = append(buf, 'b')
	buf = appendText(buf, tenant)
	buf = appendText(buf, batch)
	buf = binary.BigEndian.AppendUint32(buf, uint32(index))
	return identity(buf)
}

// BareItemID is the identity of an item that an upstream system produced straight to its topic: a hash of where it lies. A record that
// was forwarded to another partition keeps the identity of its origin.
func BareItemID(topic string, epoch, partition int32, offset int64) string {
	buf := make([]byte, 0, 96)
	buf = append(buf, 'p')
	buf = appendText(buf, topic)
	buf = binary.BigEndian.AppendUint32(buf, uint32(epoch))
	buf = binary.BigEndian.AppendUint32(buf, uint32(partition))
	buf = binary.BigEndian.AppendUint64(buf, uint64(offset))
	return identity(buf)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func identity(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// Version orders the changes of one key: it grows with the offset of the item in the key's partition, and with each new epoch of the
// topic. It needs no memory of removed keys.
func Version(epoch int32, offset int64) int64 { return int64(epoch)<<versionBits | offset }

// SplitVersion is where the item lay that made a version.
func SplitVersion(version int64) (epoch int32, offset int64) {
	return int32(version >> versionBits), version & (1<<versionBits - 1)
}

const versionBits = 48 // for the offset

// Number is the number that a CRM.COM event gets in the first life of its topic, see [Epochs.ItemNumber].
func Number(partition int32, offset int64, partitions int32) int64 {
	return offset*int64(partitions) + int64(partition) + 1
}

// BatchNumber is the number of the batch whose header lies at offset in the first life of the topic batches, see [Epochs.BatchNumber].
func BatchNumber(offset int64) int64 { return offset + 1 }

// Partition is Kafka's own default partitioner (murmur2) for a key. Every producer of ours sets partitions with it; what another client's
// partitioner placed elsewhere is forwarded by the engine.
func Partition(key []byte, partitions int32) int32 {
	if key == nil {
		key = []byte{} // a nil key has no partition of its own
	}
	return int32(partitioner.Partition(&kgo.Record{Key: key}, int(partitions)))
}

// partitioner is stateless for records with a key.
var partitioner = kgo.StickyKeyPartitioner(nil).ForTopic("")

// fold may be shared between goroutines: unlike other casers that of Fold keeps nothing from one call to the next.
var fold = cases.Fold()

// Fold makes text comparable without regard to case, by Unicode's case folding. It is the one fold of user names, SKUs and hex
// identifiers. SQL folds nothing but hex identifiers that lie in columns as they were sent, which it does by lower().
func Fold(s string) string {
	upper := false
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return fold.String(s)
		}
		upper = upper || 'A' <= s[i] && s[i] <= 'Z'
	}
	if upper {
		return strings.ToLower(s) // of ASCII the fold is the lower case
	}
	return s
}
