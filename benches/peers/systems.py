"""How each system is built and asked. A system has:

    build(base, folder)       base: float32 rows of unit length
    settings                  from quick to thorough
    set(setting)              before the queries
    query(q) -> row numbers   of the 10 nearest, nearest first
    batch(queries, threads)   the same for each of many at once; not all have it
    ready(q)                  what query takes, if it is no numpy array: not timed
"""

import one_thread  # noqa: F401  before numpy
import numpy as np

K = 10
PREFIX = 256


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


class Refined:
    """A shortlist by the first 256 dimensions, ranked again by all of them."""

    settings = [10, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1200, 2000]

    def build(self, base, folder):
        self.base = base
        self.make(np.ascontiguousarray(unit(base[:, :PREFIX])))

    def set(self, setting):
        self.shortlist = setting

    def query(self, q):
        prefix = q[:PREFIX] / np.linalg.norm(q[:PREFIX])
        rows = self.nearest(prefix, self.shortlist)
        scores = self.base[rows] @ q
        return rows[np.argsort(-scores)[:K]]


class FaissFlat:
    settings = [0]
    params = None

    def build(self, base, folder):
        import faiss
        faiss.omp_set_num_threads(1)
        self.index = faiss.IndexFlatIP(base.shape[1])
        self.index.add(base)

    def set(self, setting):
        pass

    def query(self, q):
        return self.index.search(q[None], K, params=self.params)[1][0]

    def batch(self, queries, threads):
        import faiss
        faiss.omp_set_num_threads(threads)
        found = self.index.search(queries, K, params=self.params)[1]
        faiss.omp_set_num_threads(1)
        return found


class FaissHnsw(FaissFlat):
    settings = [10, 20, 40, 80, 160, 320, 640, 1280, 2560]

    def build(self, base, folder):
        import faiss
        faiss.omp_set_num_threads(2)
        self.index = faiss.IndexHNSWFlat(base.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 100
        self.index.add(base)
        faiss.omp_set_num_threads(1)

    def set(self, setting):
        self.index.hnsw.efSearch = setting


class FaissRefined(FaissFlat):
    """The same by FAISS alone: an index of the prefixes, refined by a flat one of the vectors."""

    settings = Refined.settings

    def build(self, base, folder):
        import faiss
        faiss.omp_set_num_threads(2)
        dims = base.shape[1]
        prefixes = faiss.IndexPreTransform(self.make(np.ascontiguousarray(unit(base[:, :PREFIX]))))
        prefixes.prepend_transform(faiss.NormalizationTransform(PREFIX, 2.0))
        prefixes.prepend_transform(faiss.RemapDimensionsTransform(dims, PREFIX, False))
        full = self.full(dims)
        full.add(base)
        self.index = faiss.IndexRefine(prefixes, full)
        faiss.omp_set_num_threads(1)

    def full(self, dims):
        import faiss
        return faiss.IndexFlatIP(dims)

    def within(self, shortlist):
        """How the prefixes are searched, where that is not as usual."""
        return None

    def set(self, setting):
        import faiss
        inner = faiss.SearchParametersPreTransform(index_params=self.within(setting))
        self.params = faiss.IndexRefineSearchParameters(k_factor=setting / K, base_index_params=inner)


class FaissHnswPrefix(FaissRefined):
    def make(self, prefixes):
        inner = FaissHnsw()
        inner.build(prefixes, None)
        return inner.index

    def within(self, shortlist):
        import faiss
        return faiss.SearchParametersHNSW(efSearch=shortlist)


class FaissPqPrefix(FaissRefined):
    """4-bit product codes of two dimensions each, flat, with the fast scan."""

    def make(self, prefixes):
        import faiss
        index = faiss.index_factory(PREFIX, "PQ128x4fs", faiss.METRIC_INNER_PRODUCT)
        index.train(prefixes[:: max(1, len(prefixes) // 20000)])
        index.add(prefixes)
        return index


class FaissPqPrefixHalf(FaissPqPrefix):
    """Refined by half floats, as matryo is."""

    def full(self, dims):
        import faiss
        half = faiss.ScalarQuantizer.QT_fp16
        return faiss.IndexScalarQuantizer(dims, half, faiss.METRIC_INNER_PRODUCT)


class Hnswlib:
    settings = [10, 20, 40, 80, 160, 320, 640, 1280, 2560]

    def build(self, base, folder):
        import hnswlib
        self.index = hnswlib.Index(space="ip", dim=base.shape[1])
        self.index.init_index(max_elements=len(base), M=32, ef_construction=200)
        self.index.add_items(base, num_threads=2)
        self.index.set_num_threads(1)

    def set(self, setting):
        self.index.set_ef(setting)

    def query(self, q):
        return self.index.knn_query(q, k=K)[0][0]

    def batch(self, queries, threads):
        return self.index.knn_query(queries, k=K, num_threads=threads)[0]


class Usearch:
    settings = [16, 32, 64, 128, 256, 512, 1024, 2048]

    def build(self, base, folder):
        from usearch.index import Index
        self.index = Index(ndim=base.shape[1], metric="ip", dtype="bf16")
        self.index.add(np.arange(len(base)), base, threads=2)

    def set(self, setting):
        self.index.expansion_search = setting

    def query(self, q):
        return self.index.search(q, K, threads=1).keys

    def batch(self, queries, threads):
        return self.index.search(queries, K, threads=threads).keys


class UsearchPrefix(Refined):
    def make(self, prefixes):
        from usearch.index import Index
        self.index = Index(ndim=PREFIX, metric="ip", dtype="i8")
        self.index.add(np.arange(len(prefixes)), prefixes, threads=2)

    def nearest(self, prefix, count):
        self.index.expansion_search = count
        return self.index.search(prefix, count, threads=1).keys


class Svs:
    """Vamana over 4-bit codes with 8-bit residuals."""

    settings = [10, 15, 20, 30, 45, 70, 100, 150, 250, 500, 1000]

    def build(self, base, folder):
        import svs
        path = str(folder / "base.fvecs")
        svs.write_vecs(base, path)
        data = svs.VectorDataLoader(path, svs.DataType.float32, dims=base.shape[1])
        parameters = svs.VamanaBuildParameters(graph_max_degree=64, window_size=128)
        distance = svs.DistanceType.MIP
        self.index = svs.Vamana.build(parameters, self.codes(svs, data, base), distance, 2)
        self.index.num_threads = 1

    def codes(self, svs, data, base):
        return svs.LVQLoader(data, primary=4, residual=8)

    def set(self, setting):
        self.index.search_window_size = setting

    def query(self, q):
        return self.index.search(q[None], K)[0][0]

    def batch(self, queries, threads):
        self.index.num_threads = threads
        found = self.index.search(queries, K)[0]
        self.index.num_threads = 1
        return found


class SvsPrefix(Svs):
    """The same with the first 256 dimensions as its LeanVec primary."""

    def codes(self, svs, data, base):
        matrix = np.eye(base.shape[1], PREFIX, dtype=np.float32)
        kinds = dict(primary_kind=svs.LeanVecKind.lvq4, secondary_kind=svs.LeanVecKind.lvq8)
        return svs.LeanVecLoader(data, PREFIX, data_matrix=matrix, query_matrix=matrix, **kinds)


class Zvec:
    settings = [10, 20, 40, 80, 160, 320, 640, 1280]

    def build(self, base, folder):
        import zvec
        dims = base.shape[1]
        index = self.index_param(zvec)
        field = zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, dims, index_param=index)
        schema = zvec.CollectionSchema(name="peers", fields=self.fields(zvec), vectors=[field])
        self.collection = zvec.create_and_open(path=str(folder / "zvec"), schema=schema)
        for first in range(0, len(base), 1000):
            rows = range(first, min(first + 1000, len(base)))
            docs = [zvec.Doc(str(i), vectors={"v": base[i].tolist()}, fields=self.values(i)) for i in rows]
            self.collection.insert(docs)
        self.collection.optimize()
        self.zvec = zvec

    def index_param(self, zvec):
        return zvec.HnswIndexParam(metric_type=zvec.MetricType.IP, quantize_type=zvec.QuantizeType.INT8)

    def fields(self, zvec):
        return []

    def values(self, row):
        return {}

    def set(self, setting):
        self.param = self.zvec.HnswQueryParam(ef=setting, is_using_refiner=True)

    def ready(self, q):
        return q.tolist()

    def query(self, q):
        query = self.zvec.VectorQuery("v", vector=q, param=self.param)
        return [int(hit.id) for hit in self.collection.query(query, topk=K, output_fields=[])]


class ZvecVamana(Zvec):
    """By distance, which ranks rows of one length alike: built by inner product it finds half."""

    def index_param(self, zvec):
        return zvec.VamanaIndexParam(metric_type=zvec.MetricType.L2, quantize_type=zvec.QuantizeType.INT8)

    def set(self, setting):
        self.param = self.zvec.VamanaQueryParam(ef_search=setting, is_using_refiner=True)


class Qdrant:
    """HNSW over 8-bit codes in RAM, scored again by the full vectors."""

    settings = [16, 32, 64, 128, 256, 512, 1024]
    on_disk = False

    def build(self, base, folder):
        import qdrant_edge as edge
        self.edge = edge
        path = folder / "qdrant"
        path.mkdir()
        codes = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, always_ram=True)
        hnsw = edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10, max_indexing_threads=2)
        vectors = self.vectors(edge, base.shape[1])
        config = edge.EdgeConfig(vectors=vectors, hnsw_config=hnsw, quantization_config=codes)
        self.shard = edge.EdgeShard.create(str(path), config)
        self.declare(edge)
        for first in range(0, len(base), 1000):
            rows = range(first, min(first + 1000, len(base)))
            points = [edge.Point(i, self.point(base[i]), self.payload(i)) for i in rows]
            self.shard.update(edge.UpdateOperation.upsert_points(points))
        self.shard.flush()
        self.shard.optimize()

    def vectors(self, edge, dims):
        full = edge.EdgeVectorParams(size=dims, distance=edge.Distance.Dot, on_disk=self.on_disk)
        return {"v": full}

    def point(self, row):
        return {"v": row.tolist()}

    def declare(self, edge):
        pass

    def payload(self, row):
        return None

    def set(self, setting):
        rescore = self.edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
        self.params = self.edge.SearchParams(hnsw_ef=setting, quantization=rescore)

    def ready(self, q):
        return q.tolist()

    def query(self, q):
        query = self.edge.Query.Nearest(q, using="v")
        request = self.edge.QueryRequest(limit=K, query=query, params=self.params)
        return [hit.id for hit in self.shard.query(request)]


class QdrantPrefix(Qdrant):
    """A shortlist by HNSW over the first 256 dimensions, scored again by all."""

    settings = Refined.settings

    def vectors(self, edge, dims):
        prefix = edge.EdgeVectorParams(size=PREFIX, distance=edge.Distance.Cosine)
        unlinked = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10)
        full = edge.EdgeVectorParams(size=dims, distance=edge.Distance.Dot, hnsw_config=unlinked)
        return {"p": prefix, "v": full}

    def point(self, row):
        return {"p": row[:PREFIX].tolist(), "v": row.tolist()}

    def query(self, q):
        edge = self.edge
        nearest = edge.Query.Nearest(q[:PREFIX], using="p")
        params = edge.SearchParams(hnsw_ef=self.setting)
        shortlist = edge.Prefetch(limit=self.setting, query=nearest, params=params)
        full = edge.Query.Nearest(q, using="v")
        request = edge.QueryRequest(limit=K, query=full, prefetches=[shortlist])
        return [hit.id for hit in self.shard.query(request)]

    def set(self, setting):
        self.setting = setting


class Lance:
    settings = [1, 2, 5, 10, 20, 50, 100]

    def build(self, base, folder):
        import lancedb
        import pyarrow as pa
        values = pa.FixedSizeListArray.from_arrays(pa.array(base.ravel()), base.shape[1])
        ids = pa.array(np.arange(len(base)))
        table = pa.table({"id": ids, "vector": values, **self.columns(pa, len(base))})
        self.table = lancedb.connect(str(folder / "lance")).create_table("peers", table)
        self.table.create_index(metric="dot", index_type="IVF_HNSW_SQ")

    def columns(self, pa, rows):
        return {}

    def set(self, setting):
        self.refine = setting

    def query(self, q):
        search = self.table.search(q).distance_type("dot").limit(K).nprobes(20).refine_factor(self.refine)
        return search.select(["id"]).to_arrow()["id"].to_numpy()


class SqliteVec:
    """1-bit codes of all dimensions, a shortlist of them ranked by the floats."""

    settings = [20, 50, 100, 200, 400, 1000]

    def build(self, base, folder):
        import pysqlite3 as sqlite3
        import sqlite_vec
        self.db = sqlite3.connect(folder / "vec.db")
        self.db.enable_load_extension(True)
        sqlite_vec.load(self.db)
        dims = base.shape[1]
        self.db.execute(f"create virtual table v using vec0(e float[{dims}], b bit[{dims}])")
        insert = "insert into v(rowid, e, b) values (?, ?, vec_quantize_binary(?))"
        self.db.executemany(insert, ((i, row.tobytes(), row.tobytes()) for i, row in enumerate(base)))
        self.db.commit()

    def set(self, setting):
        self.shortlist = setting

    def query(self, q):
        text = """select rowid from (
            select rowid, e from v where b match vec_quantize_binary(?) and k = ?)
            order by vec_distance_cosine(e, ?) limit ?"""
        rows = self.db.execute(text, (q.tobytes(), self.shortlist, q.tobytes(), K))
        return [row[0] for row in rows]


class SvsHalf(Svs):
    """Vamana over half floats: what SVS offers on processors that are not Intel's."""

    def build(self, base, folder):
        import svs
        parameters = svs.VamanaBuildParameters(graph_max_degree=64, window_size=128)
        self.index = svs.Vamana.build(parameters, base.astype(np.float16), svs.DistanceType.MIP, 2)
        self.index.num_threads = 1


SYSTEMS = {
    "Intel SVS, Vamana, prefix 256 as LeanVec primary": SvsPrefix,
    "Intel SVS, Vamana, LVQ4x8": Svs,
    "Intel SVS, Vamana, f16": SvsHalf,
    "FAISS HNSW, prefix 256, refined": FaissHnswPrefix,
    "FAISS 4-bit PQ flat, prefix 256, refined": FaissPqPrefix,
    "FAISS 4-bit PQ flat, prefix 256, refined by f16": FaissPqPrefixHalf,
    "usearch i8, prefix 256, refined": UsearchPrefix,
    "usearch bf16": Usearch,
    "FAISS HNSW32": FaissHnsw,
    "hnswlib M=32": Hnswlib,
    "zvec HNSW int8, refined": Zvec,
    "zvec Vamana int8, refined": ZvecVamana,
    "Qdrant Edge HNSW int8, rescored": Qdrant,
    "Qdrant Edge HNSW, prefix 256, rescored": QdrantPrefix,
    "LanceDB IVF_HNSW_SQ": Lance,
    "sqlite-vec, 1 bit, refined": SqliteVec,
    "FAISS flat (exact)": FaissFlat,
}
