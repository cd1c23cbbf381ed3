/* SPDX-License-Identifier: MIT */
/* graph.c - a step as one launch: what a stream is given is recorded, and replayed.
 *
 * Recording is relaxed: it concerns this stream alone. Other ranks' threads, which share
 * the process, go on as they like, and libraries may load a kernel on its first use. */
#include <cuda_runtime_api.h>

#include "cuda.h"

int cu_graph_begin(struct nvllm_device *dev, nvllm_stream stream)
{
	cudaSetDevice(dev->ordinal);
	return cu_check(dev, cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed),
		"beginning to record a graph");
}

/* After a call that cannot be recorded the capture is invalid; to end it makes the stream usable
 * again, and says so. */
static int end_capture(struct nvllm_device *dev, cudaStream_t stream, cudaGraph_t *graph)
{
	const int err = cu_check(dev, cudaStreamEndCapture(stream, graph), "recording a graph");

	if (err && *graph)
		cudaGraphDestroy(*graph);
	return err;
}

int cu_graph_end(struct nvllm_device *dev, nvllm_stream stream, nvllm_graph *out)
{
	cudaGraph_t graph = NULL;
	cudaGraphExec_t exec = NULL;
	int err;

	*out = NULL;
	cudaSetDevice(dev->ordinal);
	err = end_capture(dev, stream, &graph);
	if (err)
		return err;
	err = cu_check(dev, cudaGraphInstantiate(&exec, graph, 0), "making a recorded graph ready");
	cudaGraphDestroy(graph);
	if (!err) /* now, so that the first launch is as quick as the others */
		err = cu_check(dev, cudaGraphUpload(exec, stream), "placing a graph on the device");
	if (err && exec)
		cudaGraphExecDestroy(exec);
	else
		*out = exec;
	return err;
}

int cu_graph_launch(struct nvllm_device *dev, nvllm_stream stream, nvllm_graph graph)
{
	cudaSetDevice(dev->ordinal);
	return cu_check(dev, cudaGraphLaunch(graph, stream), "launching a graph");
}

void cu_graph_free(struct nvllm_device *dev, nvllm_graph graph)
{
	if (!graph)
		return;
	cudaSetDevice(dev->ordinal);
	cudaGraphExecDestroy(graph);
}
