package sidecar

import (
	"strings"

	"github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// embedding stands before the text of an error that came from embedding a query's text.
const embedding = "remote client vectorize: "

// objectError has the words of the original, which learns of a failure by an HTTP status and a text.
func objectError(code int32, message string) error {
	return errors.Errorf("fail with status %d: %s", httpStatus(codes.Code(code), message), message)
}

// callError is the error of each object of a call that failed.
func callError(err error) error {
	failed, ok := status.FromError(err)
	if !ok {
		return errors.Wrap(err, "text2vec-sidecar")
	}
	return objectError(int32(failed.Code()), failed.Message())
}

// queryError has the words of the original for a query. The service says at which of its steps it failed, but not by
// which HTTP status the original would have learned of it. prefix names the first step, for a call that came to none.
func queryError(err error, prefix string) error {
	failed, ok := status.FromError(err)
	if !ok {
		return errors.Wrap(err, "text2vec-sidecar")
	}
	before, text, found := strings.Cut(failed.Message(), embedding)
	switch {
	case found:
		return errors.New(before + embedding + objectError(int32(failed.Code()), text).Error())
	case failed.Code() == codes.InvalidArgument:
		return errors.New(failed.Message()) // moves: nothing was embedded at that step
	default:
		return errors.New(prefix + objectError(int32(failed.Code()), failed.Message()).Error())
	}
}

// httpStatus is the status with which the sidecar answers the same error over HTTP. Two kinds share RESOURCE_EXHAUSTED.
func httpStatus(code codes.Code, message string) int {
	switch code {
	case codes.InvalidArgument:
		return 400
	case codes.Unauthenticated:
		return 401
	case codes.PermissionDenied:
		return 403
	case codes.NotFound:
		return 404
	case codes.ResourceExhausted:
		if strings.HasPrefix(message, "too much work is waiting") {
			return 429
		}
		return 413
	case codes.Unimplemented:
		return 501
	case codes.Unavailable:
		return 503
	case codes.DeadlineExceeded:
		return 504
	default:
		return 500
	}
}
